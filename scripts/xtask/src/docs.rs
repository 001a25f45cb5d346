//! Parts of the book that are made from the code.

use crate::test::Verdict;
use crate::{cli, say, workspace};
use anyhow::{Context, Result};
use pv_abi::Privilege;
use pv_abi::call::elsewhere::STRUCTURES;
use pv_abi::call::{ROWS, Row, number};
use std::fmt::Write;
use std::path::PathBuf;

/// Runs `cargo xtask docs`.
pub fn verb(options: &cli::Docs) -> Result<u8> {
    let file = page();
    if options.check {
        return Ok(match check()? {
            Verdict::Passed(_) => 0,
            _ => {
                say::step(format!("{} is not what the table says: run cargo xtask docs", file.display()));
                crate::FAILED
            }
        });
    }
    std::fs::write(&file, hypercalls()).with_context(|| format!("cannot write {}", file.display()))?;
    say::step(format!("wrote {}", file.display()));
    Ok(0)
}

/// Tells whether the page of hypercalls is what the table says.
pub fn check() -> Result<Verdict> {
    let file = page();
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(if text == hypercalls() {
        Verdict::Passed(format!("{} calls", ROWS.len()))
    } else {
        Verdict::failed("docs/src/hypercalls.md is not what the table says: run cargo xtask docs")
    })
}

fn page() -> PathBuf {
    workspace::root().join("docs/src/hypercalls.md")
}

/// Writes the page: every row of the table, grouped by hypercall.
fn hypercalls() -> String {
    let mut text = String::from(
        "# Hypercalls\n\n\
         <!-- Made by `cargo xtask docs` from the table in pv-abi. Do not edit. -->\n\n\
         The number goes into RAX, the arguments into RDI, RSI, RDX, R10 and R8; the result comes back in RAX, and a\n\
         negative one is an error. Every other register is preserved. Where a call has a sub-operation, that is the first\n\
         argument. Any call may return `ENOSYS` (no such call), `EFAULT` (a bad pointer) and `EPERM` (a missing role).\n",
    );
    text += "\nThe tables at the end say which calls and structures [real Xen and Linux know](#here-and-elsewhere).\n";
    let mut rows: Vec<&Row> = ROWS.iter().collect();
    rows.sort_by_key(|row| (row.number, row.sub));
    let mut current = None;
    for row in rows {
        if current != Some(row.number) {
            current = Some(row.number);
            let _ = write!(text, "\n## {} ({})\n", family(row.number), row.number);
        }
        entry(&mut text, row);
    }
    elsewhere(&mut text);
    text
}

/// Writes the tables of calls and structures: here, on Xen, in Linux.
fn elsewhere(text: &mut String) {
    text.push_str(
        "\n## Here and elsewhere\n\n\
         Of Xen 4.17: what a PVH guest gets from it; the self-test `conf-hypercalls` compares this column with what Xen\n\
         answers to its first domain. Of Linux 6.1: whether its x86-64 kernel makes the call as a PVH guest (*yes*), only as\n\
         first domain or in a back end (*driver domain*), or only as another kind of guest (*not as PVH*).\n\n\
         | call | here, for | on Xen 4.17 | used by Linux |\n|---|---|---|---|\n",
    );
    let mut rows: Vec<&Row> = ROWS.iter().collect();
    rows.sort_by_key(|row| (row.number, row.sub));
    for row in rows {
        let (xen, linux) = row.call.elsewhere();
        let who = match row.privilege {
            Privilege::Guest => "every guest".to_owned(),
            role => format!("role `{}`", format!("{role:?}").to_lowercase()),
        };
        let _ = writeln!(text, "| `{}` | {who} | {xen} | {linux} |", row.name);
    }
    text.push_str("\n| structure | here | on Xen 4.17 | used by Linux |\n|---|---|---|---|\n");
    for (name, here, xen, linux) in STRUCTURES {
        let _ = writeln!(text, "| {name} | {here} | {xen} | {linux} |");
    }
}

/// Returns the name of a hypercall by its number.
fn family(number: u64) -> &'static str {
    match number {
        number::MEMORY_OP => "memory_op",
        number::MULTICALL => "multicall",
        number::SET_TIMER_OP => "set_timer_op",
        number::XEN_VERSION => "xen_version",
        number::CONSOLE_IO => "console_io",
        number::GRANT_TABLE_OP => "grant_table_op",
        number::VCPU_OP => "vcpu_op",
        number::SCHED_OP => "sched_op",
        number::EVENT_CHANNEL_OP => "event_channel_op",
        number::PHYSDEV_OP => "physdev_op",
        number::HVM_OP => "hvm_op",
        number::CONTROL => "control, Xenolith's own",
        _ => "hypercall",
    }
}

/// Writes a type as its reader knows it: without the spaces and the crate that the compiler's printer leaves.
fn kind(text: &str) -> String {
    text.replace("$crate", "").replace(' ', "").replace("<::", "<").trim_start_matches("::").to_owned()
}

fn entry(text: &mut String, row: &Row) {
    let _ = write!(text, "\n### `{}`", row.name);
    if let Some(sub) = row.sub {
        let _ = write!(text, " ({sub})");
    }
    text.push_str("\n\n");
    for line in row.doc {
        let _ = writeln!(text, "{}", line.trim());
    }
    let _ = writeln!(text, "\n- Who: {}", format!("{:?}", row.privilege).to_lowercase());
    for argument in row.args {
        let registers =
            if argument.words == 1 { String::new() } else { format!(", {} registers", argument.words) };
        let _ = writeln!(text, "- `{}`: `{}`{registers}", argument.name, kind(argument.kind));
    }
    if !row.errors.is_empty() {
        let names: Vec<_> = row.errors.iter().map(|error| format!("`{error:?}`")).collect();
        let _ = writeln!(text, "- Errors: {}", names.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_the_table_is_on_the_page() {
        let text = hypercalls();
        for row in ROWS {
            assert!(text.contains(&format!("### `{}`", row.name)), "{} is missing", row.name);
            assert_ne!(family(row.number), "hypercall", "{} belongs to no named hypercall", row.name);
        }
    }

    #[test]
    fn types_are_written_as_their_reader_knows_them() {
        assert_eq!(kind("In < $crate :: memory :: Reservation >"), "In<memory::Reservation>");
    }
}
