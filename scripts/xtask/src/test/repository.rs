//! Cases about the repository itself: its form, its size, its documentation.

use super::{Case, Context, Verdict};
use crate::{docs, process, setup::toolchain, workspace};
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the hypervisor may not outgrow; this number only goes down.
const MOST_LINES: usize = 21_200;

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::quick("format", |_| format()),
        Case::quick("lines/hv", |_| lines()),
        Case::quick("docs/hypercalls", |_| docs::check()),
        Case::quick("docs/links", |_| links()),
        Case::new("images", images),
    ]
}

fn format() -> Result<Verdict> {
    let mut cargo = toolchain::own_cargo();
    let done = process::collect(cargo.args(["fmt", "--all", "--check"]), Duration::from_secs(300))?;
    Ok(if done.passed() {
        Verdict::passed()
    } else {
        Verdict::Failed { why: "cargo fmt --all would change files".into(), end: done.tail(20) }
    })
}

/// Counts the hypervisor's lines of code: neither blank nor comment. Modules that only tests use are counted apart.
fn lines() -> Result<Verdict> {
    let hv = workspace::root().join("hv");
    let files = files(&hv, "rs")?;
    let mut of_tests = Vec::new();
    let mut texts = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        of_tests.extend(test_modules(&file, &text));
        texts.push((file, text));
    }
    let (mut code, mut tests) = (0, 0);
    let mut parts = BTreeMap::<PathBuf, usize>::new();
    for (file, text) in &texts {
        let (own, own_tests) = count(text);
        if of_tests.iter().any(|path| file.starts_with(path))
            || file.components().any(|part| part.as_os_str() == "tests")
        {
            tests += own + own_tests;
            continue;
        }
        code += own;
        tests += own_tests;
        let part: PathBuf = file.strip_prefix(&hv)?.iter().take(3).collect();
        *parts.entry(if part.extension().is_some() { part.with_file_name("") } else { part }).or_default() +=
            own;
    }
    let note = format!("{code} lines of code, {tests} more of tests");
    if code <= MOST_LINES {
        return Ok(Verdict::Passed(note));
    }
    let mut parts: Vec<_> = parts.into_iter().map(|(part, lines)| (lines, part)).collect();
    parts.sort();
    let end =
        parts.iter().rev().map(|(lines, part)| format!("    {lines:>6}  hv/{}\n", part.display())).collect();
    Ok(Verdict::Failed { why: format!("{note}: more than {MOST_LINES}"), end })
}

/// Returns where the modules are that a file declares for tests only: a file and a folder for each.
fn test_modules(file: &Path, text: &str) -> Vec<PathBuf> {
    let own = file.file_stem().unwrap_or_default();
    let dir = match own.to_str() {
        Some("mod" | "lib" | "main") => file.with_file_name(""),
        _ => file.with_extension(""),
    };
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line != "#[cfg(test)]" {
            continue;
        }
        // Other attributes may stand between.
        let Some(line) = lines.by_ref().find(|line| !line.starts_with("#[") && !line.starts_with("//"))
        else {
            break;
        };
        let line = line.strip_prefix("pub ").or(line.strip_prefix("pub(crate) ")).unwrap_or(line);
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            found.extend([dir.join(format!("{name}.rs")), dir.join(name)]);
        }
    }
    found
}

/// Counts a file's lines of code, before and after the beginning of its `mod tests`.
fn count(text: &str) -> (usize, usize) {
    let (mut code, mut tests, mut in_tests, mut in_comment) = (0, 0, false, false);
    for line in text.lines().map(str::trim) {
        if in_comment || line.starts_with("/*") {
            in_comment = !line.contains("*/");
        } else if !line.is_empty() && !line.starts_with("//") {
            in_tests |= line.starts_with("mod tests {");
            *(if in_tests { &mut tests } else { &mut code }) += 1;
        }
    }
    (code, tests)
}

/// Returns the files below a folder with some extension.
pub fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != ".git") {
                found.extend(files(&path, extension)?);
            }
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Looks every relative link of the README files and of the book up.
fn links() -> Result<Verdict> {
    let mut broken = Vec::new();
    let mut seen = 0;
    for file in files(&workspace::root(), "md")? {
        let text = std::fs::read_to_string(&file)?;
        let folder = file.parent().unwrap_or(&file);
        for target in targets(&text) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            if !folder.join(path).exists() {
                broken.push(format!(
                    "{} links to {path}",
                    file.strip_prefix(workspace::root()).unwrap_or(&file).display()
                ));
            }
        }
    }
    Ok(if broken.is_empty() {
        Verdict::Passed(format!("{seen} links"))
    } else {
        Verdict::failed(broken.join("; "))
    })
}

/// Finds the targets of a text's links.
fn targets(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

/// Builds the images and tells their sizes.
fn images(context: &Context) -> Result<Verdict> {
    let images = context.images()?;
    let mut notes = Vec::new();
    for file in [images.hypervisor(), images.guest(crate::build::GUEST_KERNEL)] {
        let bytes = std::fs::read(&file).with_context(|| format!("no {}", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        notes.push(format!("{name} {} KiB, SHA-256 {}", bytes.len() >> 10, &workspace::sha256(&bytes)[..16]));
    }
    Ok(Verdict::Passed(notes.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_code_are_neither_blank_nor_comment() {
        let text = "//! Doc.\n\nfn a() {\n    // why\n    b();\n}\n/* one\n   two */\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n";
        assert_eq!(count(text), (4, 3));
    }

    #[test]
    fn modules_of_tests_are_found() {
        let text =
            "#[cfg(test)]\n#[allow(missing_docs)]\npub mod fixture;\nmod real;\n#[cfg(test)]\nuse x;\n";
        assert_eq!(
            test_modules(Path::new("a/mod.rs"), text),
            [Path::new("a/fixture.rs"), Path::new("a/fixture")]
        );
        assert_eq!(test_modules(Path::new("a/b.rs"), text)[1], Path::new("a/b/fixture"));
    }

    #[test]
    fn links_are_found() {
        assert_eq!(targets("see [a](b.md#c) and [d](https://e)"), ["b.md#c", "https://e"]);
    }
}
