//! XenStore from the shell.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use pv_abi::Errno;
use pv_drivers::xs::{Store, TransactionId};

use super::command::{Args, Command, Failure, Outcome};
use crate::xen::store;
use crate::{command, println};

/// The table.
pub const COMMANDS: &[Command] = &[command!(
    xenstore,
    "xenstore ls [PATH] | read PATH | write PATH VALUE | rm PATH",
    "looks at XenStore or changes it; paths without a leading / are this domain's own"
)];

fn text(value: &[u8]) -> String {
    value.iter().flat_map(|&b| core::ascii::escape_default(b)).map(char::from).collect()
}

fn tree(store: &mut dyn Store, path: &str, depth: usize, out: &mut Vec<String>) -> Result<(), Errno> {
    for name in store.list(TransactionId::NONE, path)? {
        let child = if path.is_empty() || path == "/" {
            format!("{path}{name}")
        } else {
            format!("{}/{name}", path.trim_end_matches('/'))
        };
        let shown = match store.read(TransactionId::NONE, &child) {
            Ok(value) if value.is_empty() => String::new(),
            Ok(value) => format!(" = \"{}\"", text(&value)),
            Err(e) => format!(" ({e})"),
        };
        out.push(format!("{:width$}{name}{shown}", "", width = depth * 2));
        if depth < 16 {
            // What may not be listed has said so above.
            let _ = tree(store, &child, depth + 1, out);
        }
    }
    Ok(())
}

async fn xenstore(args: Args) -> Outcome {
    let verb = args.need(0, "a verb")?;
    let path = args.get(1);
    let need = || args.need(1, "PATH");
    if !store::is_there() {
        return Err(Failure::because("this domain has no XenStore"));
    }
    let failed = |path: &str, e: Errno| Failure::because(format!("{path}: {e}"));
    match verb {
        "ls" => {
            args.at_most(2)?;
            let own = format!("/local/domain/{}", crate::xen::identity().domain.map_or(0, |d| d.raw()));
            let path = path.unwrap_or(&own);
            let mut out = Vec::new();
            let result = store::with(|store| tree(store, path, 0, &mut out));
            out.iter().for_each(|line| println!("{line}"));
            match result {
                Some(Err(e)) => return Err(failed(path, e)),
                _ => return Ok(()),
            }
        }
        "read" => {
            args.at_most(2)?;
            let path = need()?;
            let value = store::with(|store| store.read(TransactionId::NONE, path));
            match value.unwrap_or(Err(Errno::ENODEV)) {
                Ok(value) => println!("{}", text(&value)),
                Err(e) => return Err(failed(path, e)),
            }
        }
        "write" => {
            let path = need()?;
            let value = args.all().get(2..).unwrap_or_default().join(" ");
            store::write(path, &value).map_err(|e| failed(path, e))?;
        }
        "rm" => {
            args.at_most(2)?;
            let path = need()?;
            let result = store::with(|store| store.remove(TransactionId::NONE, path));
            result.unwrap_or(Err(Errno::ENODEV)).map_err(|e| failed(path, e))?;
        }
        _ => return Err(Failure::usage(format!("{verb:?} is not a verb"))),
    }
    Ok(())
}
