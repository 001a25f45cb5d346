//! How costs grow with the number of things.
//!
//! `bench scale` measures a few services with more and more event ports or grants of its own (`ports=`, `grants=`), domains
//! of more and more memory (`create=`, names of sections), or once, under circumstances that others have made and the
//! words `what=` and `count=` name.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::{DomainId, GrantRef};

use super::micro;
use super::take::Bench;
use crate::mm::PAGE;
use crate::shell::command::{Args, Failure, Outcome, size};
use crate::xen::platform::Pages;
use crate::xen::{self, events, grants, hv, sched, stub};

/// Takes a list of numbers.
fn counts(args: &mut Args, key: &str) -> Result<Vec<usize>, Failure> {
    let text = args.take(key).unwrap_or_default();
    let bad = || Failure::usage(alloc::format!("{key}={text}: not a list of numbers"));
    let words = text.split(',').filter(|word| !word.is_empty());
    words.map(|word| size(word).and_then(|count| usize::try_from(count).ok()).ok_or_else(bad)).collect()
}

/// Runs it.
pub async fn run(mut args: Args) -> Outcome {
    let n = args.take_size("n")?.unwrap_or(200).clamp(8, 1_000_000) as usize;
    let (ports, references) = (counts(&mut args, "ports")?, counts(&mut args, "grants")?);
    let sections = args.take("create").unwrap_or_default();
    let what = args.take("what");
    let count = args.take("count").unwrap_or_default();
    args.at_most(1)?;
    let me = xen::identity().domain.unwrap_or(DomainId::DOM0);
    let mut bench = Bench::new("scale", n).await;
    let done = all(&mut bench, me, &ports, &references, &sections, what.map(|what| (what, count)));
    bench.print();
    done
}

fn all(
    bench: &mut Bench,
    me: DomainId,
    ports: &[usize],
    references: &[usize],
    sections: &str,
    circumstances: Option<(String, String)>,
) -> Outcome {
    if let Some((what, count)) = circumstances {
        bench.words = Vec::from([("what", what), ("count", count)]);
        services(bench, me)?;
    }
    let mut held = Vec::new();
    for &count in ports {
        while held.len() < count {
            held.push(events::alloc_unbound(DomainId::SELF)?);
        }
        bench.words = Vec::from([("what", "ports".to_string()), ("count", count.to_string())]);
        micro::event_to_self(bench)?;
    }
    held.into_iter().for_each(events::close);
    with_grants(bench, me, references)?;
    for section in sections.split(',').filter(|name| !name.is_empty()) {
        bench.words = Vec::from([("what", "memory".to_string())]);
        micro::make_and_destroy(bench, section, 1);
    }
    Ok(())
}

/// A few services of each kind.
fn services(bench: &mut Bench, me: DomainId) -> Outcome {
    bench.take("null-hypercall", 1, 1, || {
        let _ = stub::version_number(hv());
    });
    bench.take("yield", 1, 1, sched::yield_now);
    micro::event_to_self(bench)?;
    let own = Pages::new(1)?;
    micro::with_granted(me, &own, |refs| micro::mapping(bench, "grant-map-unmap-own", me, refs))??;
    micro::give_and_take(bench);
    Ok(())
}

/// Maps the last of more and more grants of one page.
fn with_grants(bench: &mut Bench, me: DomainId, references: &[usize]) -> Outcome {
    let page = Pages::new(1)?;
    let mut held: Vec<GrantRef> = Vec::new();
    let mut done = Ok(());
    for &count in references {
        while held.len() < count && done.is_ok() {
            match grants::grant(me, page.phys() / PAGE, true) {
                Ok(reference) => held.push(reference),
                Err(error) => done = Err(Failure::because(alloc::format!("{} grants: {error}", held.len()))),
            }
        }
        if done.is_err() {
            break;
        }
        bench.words = Vec::from([("what", "grants".to_string()), ("count", count.to_string())]);
        let last = held[held.len() - 1..].to_vec();
        done = micro::mapping(bench, "grant-map-unmap-own", me, &last);
    }
    for reference in held {
        grants::ungrant(reference)?;
    }
    done
}
