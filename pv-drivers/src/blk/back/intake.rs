//! From a slot of the ring to a checked request.

use alloc::vec::Vec;

use pv_abi::ids::GrantRef;
use pv_abi::io::blkif::{self, DiscardRequest, IndirectRequest, MAX_SEGMENTS_PER_REQUEST, Segment};
use pv_abi::io::ring::PAGE_SIZE;
use smallvec::SmallVec;
use zerocopy::{FromBytes, IntoBytes};

use super::super::device::{Geometry, SECTOR_SIZE};

/// A run of bytes inside one granted page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub grant: GrantRef,
    pub offset: u16,
    pub len: u16,
}

impl Run {
    pub fn sectors(self) -> u64 {
        u64::from(self.len) / SECTOR_SIZE as u64
    }
}

/// Those of a request; a few need no memory of their own.
pub(super) type Runs = SmallVec<[Run; 4]>;

/// What a request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
    /// After all before it, and before all after it.
    Barrier,
    Flush,
    Discard {
        is_secure: bool,
    },
}

/// A request that may be carried out: its sectors are on the disk, and its runs inside their pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Intake {
    pub id: u64,
    /// As the front end wrote it, for the response.
    pub operation: u8,
    pub kind: Kind,
    pub sector: u64,
    pub count: u64,
    pub runs: Runs,
}

/// A request that is answered at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub id: u64,
    pub operation: u8,
    pub status: i16,
}

/// Where the segments of a request are.
pub(super) enum Segments<'a> {
    Direct(&'a [Segment]),
    /// That many, in these pages.
    Indirect(usize, Vec<GrantRef>),
}

/// The head of a request, before its segments were fetched.
pub(super) struct Head<'a> {
    pub id: u64,
    pub operation: u8,
    kind: Kind,
    sector: u64,
    count: u64,
    pub segments: Segments<'a>,
}

/// What the back end offers.
#[derive(Clone, Copy)]
pub(super) struct Offer {
    pub geometry: Geometry,
    pub max_indirect: usize,
}

/// Takes the private copy of a slot apart.
pub(super) fn parse<'a>(raw: &'a blkif::Request, offer: &Offer) -> Result<Head<'a>, Refusal> {
    let refuse = |id, status| Refusal { id, operation: raw.operation, status };
    match raw.operation {
        blkif::OP_READ | blkif::OP_WRITE | blkif::OP_WRITE_BARRIER | blkif::OP_FLUSH_DISKCACHE => {
            let segments = raw
                .seg
                .get(..usize::from(raw.nr_segments))
                .ok_or_else(|| refuse(raw.id, blkif::RSP_ERROR))?;
            let kind = match (raw.operation, segments.is_empty()) {
                (blkif::OP_READ, false) => Kind::Read,
                (blkif::OP_WRITE, false) => Kind::Write,
                (blkif::OP_READ | blkif::OP_WRITE, true) => return Err(refuse(raw.id, blkif::RSP_ERROR)),
                (blkif::OP_FLUSH_DISKCACHE, true) => Kind::Flush,
                _ => Kind::Barrier,
            };
            Ok(Head {
                id: raw.id,
                operation: raw.operation,
                kind,
                sector: raw.sector_number,
                count: 0,
                segments: Segments::Direct(segments),
            })
        }
        blkif::OP_DISCARD => {
            let Ok((raw, _)) = DiscardRequest::read_from_prefix(raw.as_bytes()) else {
                return Err(refuse(raw.id, blkif::RSP_ERROR));
            };
            let is_secure = raw.flag & blkif::DISCARD_SECURE != 0;
            let offered = offer.geometry.discard;
            if offered.is_none_or(|discard| is_secure && !discard.is_secure) {
                return Err(refuse(raw.id, blkif::RSP_EOPNOTSUPP));
            }
            Ok(Head {
                id: raw.id,
                operation: raw.operation,
                kind: Kind::Discard { is_secure },
                sector: raw.sector_number,
                count: raw.nr_sectors,
                segments: Segments::Direct(&[]),
            })
        }
        blkif::OP_INDIRECT => {
            let Ok((raw, _)) = IndirectRequest::read_from_prefix(raw.as_bytes()) else {
                return Err(refuse(raw.id, blkif::RSP_ERROR));
            };
            // The answer names what was done, and Linux turns a disk off that answers otherwise.
            let refuse = |status| Refusal { id: raw.id, operation: raw.indirect_op, status };
            let count = usize::from(raw.nr_segments);
            if count == 0 || count > offer.max_indirect {
                return Err(refuse(blkif::RSP_ERROR));
            }
            let kind = match raw.indirect_op {
                blkif::OP_READ => Kind::Read,
                blkif::OP_WRITE => Kind::Write,
                _ => return Err(refuse(blkif::RSP_EOPNOTSUPP)),
            };
            let pages = count.div_ceil(blkif::SEGMENTS_PER_INDIRECT_PAGE);
            let pages = raw.indirect_grefs.get(..pages).ok_or_else(|| refuse(blkif::RSP_ERROR))?;
            Ok(Head {
                id: raw.id,
                operation: raw.indirect_op,
                kind,
                sector: raw.sector_number,
                count: 0,
                segments: Segments::Indirect(count, pages.iter().map(|&page| GrantRef::new(page)).collect()),
            })
        }
        _ => Err(refuse(raw.id, blkif::RSP_EOPNOTSUPP)),
    }
}

impl Head<'_> {
    /// Checks the segments against their pages, and all of it against the disk.
    pub fn complete(&self, segments: &[Segment], offer: &Offer) -> Result<Intake, Refusal> {
        let refuse = |status| Refusal { id: self.id, operation: self.operation, status };
        let mut runs = Runs::with_capacity(segments.len());
        let mut count = self.count;
        for segment in segments {
            let run = run_of(segment).ok_or_else(|| refuse(blkif::RSP_ERROR))?;
            count += run.sectors();
            runs.push(run);
        }
        let is_change = !matches!(self.kind, Kind::Read | Kind::Flush);
        if is_change && offer.geometry.is_read_only {
            return Err(refuse(blkif::RSP_ERROR));
        }
        if self.kind != Kind::Flush && !offer.geometry.contains(self.sector, count) {
            return Err(refuse(blkif::RSP_ERROR));
        }
        Ok(Intake {
            id: self.id,
            operation: self.operation,
            kind: self.kind,
            sector: self.sector,
            count,
            runs,
        })
    }
}

/// The bytes that a segment names, if they are inside its page.
fn run_of(segment: &Segment) -> Option<Run> {
    let sector = u16::try_from(SECTOR_SIZE).ok()?;
    let (first, last) = (u16::from(segment.first_sect), u16::from(segment.last_sect));
    if first > last || usize::from(last) >= PAGE_SIZE / SECTOR_SIZE {
        return None;
    }
    Some(Run { grant: GrantRef::new(segment.gref), offset: first * sector, len: (last - first + 1) * sector })
}

const _: () = assert!(MAX_SEGMENTS_PER_REQUEST < u8::MAX as usize);
