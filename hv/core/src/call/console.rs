//! `console_io`: the emergency console.

use super::args::GuestBytes;
use super::cx::Cx;
use super::{Reply, Stop};
use crate::hw::Platform;

/// Bytes that are copied at a time.
const PIECE: u32 = 128;
/// Bytes after which a call of a domain with the role `control` looks whether others wait. All others look after each
/// piece: at 115200 baud one takes 11 ms.
const MOST: u64 = 1024;

/// Returns 0: everything was written.
pub(super) fn console_write<P: Platform>(cx: &mut Cx<'_, P>, text: GuestBytes) -> Reply {
    let len = u64::from(text.len);
    let mut done = cx.cursor;
    let most = if cx.domain.is_control() { MOST } else { PIECE.into() };
    let end = len.min(done + most);
    while done < end {
        let mut buffer = [0; PIECE as usize];
        let count = usize::try_from((end - done).min(u64::from(PIECE))).unwrap_or(0);
        let Some(piece) = buffer.get_mut(..count) else { break };
        cx.guest(|memory| memory.read_slice(text.at, done, piece))?;
        if cx.domain.is_control() {
            cx.system.platform.console_write(piece);
        } else {
            cx.domain.console.lock().write(&cx.system.platform, cx.domain.id, piece);
        }
        done += count as u64;
    }
    if done < len { Err(Stop::Preempted(done)) } else { Ok(0) }
}

/// Returns how many bytes there were.
pub(super) fn console_read<P: Platform>(cx: &mut Cx<'_, P>, buffer: GuestBytes) -> Reply {
    let mut typed = [0; PIECE as usize];
    let room = usize::try_from(buffer.len.min(PIECE)).unwrap_or(0);
    // What is taken is gone: the place is probed first.
    cx.guest(|memory| memory.check_write(buffer.at, room as u64))?;
    let count = {
        let mut input = cx.system.typed.lock();
        input.fetch(&cx.system.platform);
        input.read(typed.get_mut(..room).unwrap_or_default())
    };
    let typed = typed.get(..count).unwrap_or_default();
    cx.guest(|memory| memory.write_slice(buffer.at, 0, typed))?;
    Ok(count as u64)
}
