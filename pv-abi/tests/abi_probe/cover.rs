//! Reads the crate's sources for what is public in them.

use crate::entry::{Const, Struct};
use crate::own::OWN;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Something public: its path, and the name of its field if it is one.
#[derive(Debug)]
struct Item {
    path: String,
    field: Option<String>,
}

/// What is neither in the lists nor in `own.rs`.
pub fn missing(structs: &[Struct], consts: &[Const]) -> Vec<String> {
    let mut known: HashSet<String> = consts.iter().map(|item| item.path.clone()).collect();
    for item in structs {
        known.insert(item.path.clone());
        known.extend(item.fields.iter().map(|field| format!("{}.{}", item.path, field.name)));
    }
    let mut missing = Vec::new();
    for item in items() {
        let own = is_own(&item.path);
        let key = match &item.field {
            Some(field) => format!("{}.{field}", item.path),
            None => item.path,
        };
        if !own && !known.contains(&key) {
            missing.push(key);
        }
    }
    missing
}

/// Entries of `own.rs` that name nothing.
pub fn stale_reasons() -> Vec<&'static str> {
    let items = items();
    let names = |own: &str| match own.strip_suffix('*') {
        Some(prefix) => items.iter().any(|item| item.path.starts_with(prefix)),
        None => items.iter().any(|item| item.path == own),
    };
    OWN.iter().map(|(own, _)| *own).filter(|own| !names(own)).collect()
}

fn is_own(path: &str) -> bool {
    OWN.iter().any(|(own, _)| match own.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == *own,
    })
}

fn items() -> Vec<Item> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let mut items = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap().with_extension("");
        let mut module: Vec<String> = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
            module.pop();
        }
        scan(&std::fs::read_to_string(&file).unwrap(), &module, &mut items);
    }
    assert!(items.len() > 500, "the scanner found only {} items", items.len());
    items
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.file_stem().unwrap().to_str().unwrap().ends_with("tests")
        {
            files.push(path);
        }
    }
}

/// What a brace belongs to.
enum Scope {
    /// A module or an `impl`: a step of the path.
    Named(String),
    /// A structure, with whether its fields count.
    Struct(String),
    /// A macro's definition or a test module: nothing in it is public.
    Hidden,
    /// Anything else.
    Plain,
}

/// Reads line by line, which rustfmt's layout allows: a scope opens at the end of a line and closes on one of its own.
fn scan(text: &str, module: &[String], items: &mut Vec<Item>) {
    let mut scopes: Vec<Scope> = Vec::new();
    let mut id_name = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        let hidden = scopes.iter().any(|scope| matches!(scope, Scope::Hidden));
        let mut path = module.to_vec();
        for scope in &scopes {
            if let Scope::Named(name) | Scope::Struct(name) = scope {
                path.push(name.clone());
            }
        }
        let full = |name: &str| path.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join("::");
        let word = |text: &str| {
            text.chars()
                .take_while(|character| character.is_alphanumeric() || *character == '_')
                .collect::<String>()
        };
        if !hidden {
            // `id! {` holds one tuple structure: `Name(u16), "…"`.
            if id_name && line.contains("), \"") {
                items.push(Item { path: full(&word(line)), field: None });
            }
            if let Some(rest) = line.strip_prefix("pub struct ").or(line.strip_prefix("pub type ")) {
                items.push(Item { path: full(&word(rest)), field: None });
            }
            let constant = line
                .strip_prefix("pub const ")
                .filter(|rest| !rest.starts_with("fn ") && !rest.starts_with("unsafe fn "));
            let flag = line
                .strip_prefix("const ")
                .filter(|rest| matches!(scopes.last(), Some(Scope::Struct(_))) && !rest.starts_with("_ "));
            if let Some(rest) = constant.or(flag)
                && !rest.contains("&str =")
            {
                items.push(Item { path: full(&word(rest)), field: None });
            }
            if let (Some(Scope::Struct(_)), Some(rest)) = (scopes.last(), line.strip_prefix("pub ")) {
                let name = word(rest);
                if rest[name.len()..].starts_with(':')
                    && !["pad", "rsvd", "reserved"].iter().any(|unused| name.starts_with(unused))
                {
                    items.push(Item { path: path.join("::"), field: Some(name) });
                }
            }
        }
        let opens = line.matches('{').count();
        let closes = line.matches('}').count();
        if opens > closes {
            let scope = if let Some(rest) = line.strip_prefix("pub mod ") {
                Scope::Named(word(rest))
            } else if let Some(rest) = line.strip_prefix("impl ") {
                // `impl Trait for Type` defines nothing new.
                if line.contains(" for ") { Scope::Plain } else { Scope::Named(word(rest)) }
            } else if let Some(rest) = line.strip_prefix("pub struct ") {
                Scope::Struct(word(rest))
            } else if line.starts_with("macro_rules!") || line.starts_with("mod tests") {
                Scope::Hidden
            } else {
                Scope::Plain
            };
            scopes.push(scope);
            for _ in 1..opens - closes {
                scopes.push(Scope::Plain);
            }
        } else {
            for _ in 0..closes - opens {
                scopes.pop();
            }
        }
        id_name = line == "id! {" || (id_name && line.starts_with('#'));
    }
}
