//! The shell: lines typed on the console, or the command line's `exec=`, as commands.
//!
//! A command is a row in a table with a usage line and an `async` function; Ctrl-C drops the function's future, so every
//! command must leave the system sound wherever it waits.

pub mod command;
mod line;
mod words;

pub mod disk;
pub mod files;
pub mod net;
pub mod store;
pub mod system;

use alloc::string::String;
use alloc::vec::Vec;
use core::pin::pin;

use futures_util::future::{Either, select};

use crate::{console, print, println};
use command::{Args, Command, Failure};
use line::Event;
use words::{Join, Part};

/// Exit status of a command that Ctrl-C ended, as elsewhere.
const INTERRUPTED: i32 = 130;
/// Exit status of an unknown command.
const NOT_FOUND: i32 = 127;
/// Exit status of a command used wrongly.
const USAGE: i32 = 2;

static EXTRA: spin::RwLock<Vec<&'static [Command]>> = spin::RwLock::new(Vec::new());

/// Adds a role's own commands.
pub fn add_commands(commands: &'static [Command]) {
    EXTRA.write().push(commands);
}

/// Every command, by name.
pub fn commands() -> Vec<&'static Command> {
    let builtin = [
        system::COMMANDS,
        disk::COMMANDS,
        files::COMMANDS,
        store::COMMANDS,
        net::COMMANDS,
        crate::bench::COMMANDS,
    ];
    let extra = EXTRA.read();
    let mut all: Vec<_> = builtin.iter().chain(extra.iter()).flat_map(|c| c.iter()).collect();
    all.sort_by_key(|c| c.name);
    all
}

fn find(name: &str) -> Option<&'static Command> {
    commands().into_iter().find(|c| c.name == name)
}

/// Runs one line; the status of its last command, and the first status that was not 0 and that no `||` followed.
pub async fn run_line(text: &str) -> (i32, i32) {
    let parts = match words::parse(text) {
        Ok(parts) => parts,
        Err(e) => {
            println!("{e}");
            return (USAGE, USAGE);
        }
    };
    let (mut last, mut first_bad) = (0, 0);
    for Part { join, words } in parts {
        if join == Join::Always && first_bad == 0 {
            first_bad = last;
        }
        let skip = match join {
            Join::Always => false,
            Join::IfOk => last != 0,
            Join::IfNot => last == 0,
        };
        if skip {
            continue;
        }
        last = run_command(words).await;
        if last == INTERRUPTED {
            break;
        }
    }
    (last, if first_bad == 0 { last } else { first_bad })
}

async fn run_command(words: Vec<String>) -> i32 {
    let Some(name) = words.first() else { return 0 };
    let Some(command) = find(name) else {
        println!("{name}: no such command; try `help`");
        return NOT_FOUND;
    };
    if words.get(1).is_some_and(|w| w == "--help" || w == "-h") {
        println!("usage: {}\n  {}", command.usage, command.about);
        return 0;
    }
    let run = pin!((command.run)(Args::new(words)));
    let interrupted = pin!(console::interrupted());
    let result = match select(run, interrupted).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(Failure::Interrupted),
    };
    if !console::at_line_start() {
        println!();
    }
    match result {
        Ok(()) => 0,
        Err(Failure::Usage(why)) => {
            println!("{}: {why}\nusage: {}", command.name, command.usage);
            USAGE
        }
        Err(Failure::Failed(why)) => {
            println!("{}: {why}", command.name);
            1
        }
        Err(Failure::Status(status)) => status,
        Err(Failure::Interrupted) => {
            println!("^C");
            console::discard_input();
            INTERRUPTED
        }
    }
}

/// Reads and runs lines for ever.
pub async fn interactive(name: &str) -> ! {
    let mut editor = line::Editor::new();
    let prompt = alloc::format!("{name}> ");
    let mut status = 0;
    loop {
        if !console::at_line_start() {
            println!();
        }
        let shown = if status == 0 { prompt.clone() } else { alloc::format!("{name} [{status}]> ") };
        editor.start(&shown);
        print!("{}", editor.redraw());
        let text = loop {
            let event = editor.feed(console::read_byte().await, || {
                commands().iter().map(|c| String::from(c.name)).collect()
            });
            print!("{}", editor.take_output());
            match event {
                Event::None => {}
                Event::Line(text) => break text,
            }
        };
        if !text.trim().is_empty() {
            status = run_line(&text).await.0;
        }
    }
}

/// Runs the commands of `exec=` and returns the exit status: the first one that was not 0.
pub async fn exec(commands: &str) -> i32 {
    run_line(commands).await.1
}
