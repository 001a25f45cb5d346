//! How costs grow with the number of things: the machines.

use super::figure::Lane;
use super::suite::Job;
use crate::bundle::Domain;
use anyhow::Result;

/// Memory of a domain that does nothing but be there.
const IDLE_MEMORY: u64 = 24;
/// What everything else takes, in MiB.
const OTHERS: u64 = 512;

/// The jobs: ports and grants in one machine, memory in one; guests and vCPUs in one each.
pub fn jobs(quick: bool) -> Result<Vec<Job>> {
    let mut jobs = vec![things(quick)?, memory(quick)?];
    let (guests, vcpus): (&[u32], &[u32]) =
        if quick { (&[1, 8], &[1, 4]) } else { (&[1, 4, 16, 32, 64], &[1, 2, 4, 8, 16]) };
    for count in guests {
        jobs.push(with_guests(*count)?);
    }
    for count in vcpus {
        jobs.push(with_vcpus(*count)?);
    }
    Ok(jobs)
}

fn job(name: &str, commands: &str) -> Result<Job> {
    Job::new(name, Lane::Counted, commands)?.without_device()?.without("create=")
}

/// Frames of a grant table of more than 65,536 entries: some belong to the store, the console and the disks.
const GRANT_FRAMES: u32 = 130;

/// More and more ports and grants.
fn things(quick: bool) -> Result<Job> {
    let (ports, grants) =
        if quick { ("1,1024", "1,65536") } else { ("1,16,256,1024,4096", "1,256,4096,16384,65536") };
    let mut job =
        job("scale of ports and grants", &format!("bench scale ports={ports} grants={grants} raw"))?;
    job.set.guest()?.grant_frames = Some(GRANT_FRAMES);
    Ok(job)
}

/// Domains of more and more memory, one after another.
fn memory(quick: bool) -> Result<Job> {
    let sizes: &[u64] = if quick { &[128, 512] } else { &[128, 256, 512, 1024, 2048, 4096, 8192] };
    let names: Vec<String> = sizes.iter().map(|size| format!("m{size}")).collect();
    let mut job = job("scale of memory", &format!("bench scale create={} raw", names.join(",")))?;
    for (name, size) in names.into_iter().zip(sizes) {
        job.set.domains.insert(name, Domain::bare("victim-spin", format!("{size}M")));
    }
    job.memory = (OTHERS + sizes.iter().max().unwrap_or(&0)) << 20;
    Ok(job)
}

/// So many guests that wait for ever beside the one that measures.
fn with_guests(count: u32) -> Result<Job> {
    let commands = format!("bench scale what=guests count={count} raw");
    let mut job = job(&format!("scale: {count} guests"), &commands)?;
    let names: Vec<String> = (1..count).map(|number| format!("idle{number}")).collect();
    for name in &names {
        let mut guest = Domain::bare("pv-guest-kernel", format!("{IDLE_MEMORY}M"));
        guest.cmdline = "role=guest log=error".into();
        job.set.domains.insert(name.clone(), guest);
    }
    job.memory = (OTHERS + IDLE_MEMORY * u64::from(count) * 5 / 4) << 20;
    if names.is_empty() { Ok(job) } else { job.control(&format!("create={}", names.join(","))) }
}

/// A guest with so many vCPUs, of which all but one wait.
fn with_vcpus(count: u32) -> Result<Job> {
    let commands = format!("bench scale what=vcpus count={count} raw");
    let mut job = job(&format!("scale: {count} vCPUs"), &commands)?;
    job.set.guest()?.vcpus = count;
    Ok(job)
}
