//! Module circles: files that name each other in a loop, so that none can be read, tested or moved alone.
//!
//! Every file is a module; it knows those whose items it names by a path, in a `use` or elsewhere, in code that is not a
//! test. A parent and its child are two modules as well: what both need belongs in a file of its own. `mod` and
//! `pub use` are no knowledge: they make the front of a folder.

// Places in code are ASCII.
#![allow(clippy::string_slice)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The names that lead to a module from the crate's root: `["deliver", "spool", "writer"]`.
type Module = Vec<String>;

/// The modules among these files that reach themselves by what they name, each with those of its circle that it names.
pub fn circles(folder: &Path, files: &[PathBuf], code_of: impl Fn(&Path) -> String) -> Vec<String> {
    let modules: BTreeMap<Module, &PathBuf> = files.iter().map(|file| (module(folder, file), file)).collect();
    let known: BTreeSet<Module> = modules.keys().cloned().collect();
    let arrows: BTreeMap<&Module, BTreeSet<Module>> = modules
        .iter()
        .map(|(module, file)| (module, named(module, &known, &code_of(file))))
        .collect();
    let reach: BTreeMap<&Module, BTreeSet<&Module>> =
        known.iter().map(|module| (module, reached(module, &arrows))).collect();
    let mut found = Vec::new();
    for (module, names) in &arrows {
        let back = |next: &&Module| reach[*next].contains(*module);
        let names: Vec<String> = names.iter().filter(back).map(|next| next.join("::")).collect();
        if !names.is_empty() {
            found.push(format!("{} -> {}", module.join("::"), names.join(", ")));
        }
    }
    found
}

fn module(folder: &Path, file: &Path) -> Module {
    let inside = file.strip_prefix(folder).unwrap().with_extension("");
    let mut names: Module = inside.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    if names.last().is_some_and(|name| name == "mod" || name == "lib") {
        names.pop();
    }
    names
}

fn reached<'a>(from: &'a Module, arrows: &'a BTreeMap<&Module, BTreeSet<Module>>) -> BTreeSet<&'a Module> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        next.extend(arrows[module].iter().filter(|named| reached.insert(*named)));
    }
    reached
}

/// The modules that a file's code names, but itself.
fn named(module: &Module, known: &BTreeSet<Module>, code: &str) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    for statement in code.split_inclusive(';').filter(|statement| !is_re_export(statement)) {
        let mut rest = statement;
        while let Some(at) = rest.find("::") {
            let (before, behind) = rest.split_at(at);
            let name = before.rsplit(|letter| !is_name(letter)).next().unwrap_or_default();
            let mut paths = Vec::new();
            let length = tree(&[name.to_owned()], &behind[2..], &mut paths);
            found.extend(paths.iter().filter_map(|path| resolve(module, known, path)));
            rest = &behind[2 + length..];
        }
    }
    found.remove(module);
    found
}

fn is_re_export(statement: &str) -> bool {
    let last = statement
        .trim_start()
        .rsplit("\n\n")
        .next()
        .unwrap_or_default()
        .trim_start();
    last.starts_with("pub use ") || last.starts_with("pub(crate) use ") || last.starts_with("pub(super) use ")
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// Collects the paths of what stands behind `before::`, a name or a group `{a, b::c, d::{e, f}}`; returns its length.
fn tree(before: &[String], text: &str, paths: &mut Vec<Vec<String>>) -> usize {
    if text.starts_with('{') {
        let mut at = 1;
        while let Some(letter) = text[at..].chars().next() {
            match letter {
                '}' => return at + 1,
                _ if is_name(letter) => at += tree(before, &text[at..], paths),
                _ => at += letter.len_utf8(),
            }
        }
        return at;
    }
    let length = text.find(|letter| !is_name(letter)).unwrap_or(text.len());
    let mut path = before.to_vec();
    path.push(text[..length].to_owned());
    match text[length..].strip_prefix("::") {
        Some(rest) => length + 2 + tree(&path, rest, paths),
        None => {
            paths.push(path);
            length
        }
    }
}

/// The innermost module on this path, as it is read in `module`; `None` if the path begins elsewhere.
fn resolve(module: &Module, known: &BTreeSet<Module>, path: &[String]) -> Option<Module> {
    let ups = path.iter().take_while(|name| *name == "super").count();
    let (mut at, rest) = match path.first()?.as_str() {
        "crate" => (Module::new(), &path[1..]),
        "self" => (module.clone(), &path[1..]),
        "super" => (module[..module.len().checked_sub(ups)?].to_vec(), &path[ups..]),
        child => {
            let child = [module.as_slice(), &[child.to_owned()]].concat();
            known.contains(&child).then_some((module.clone(), path))?
        }
    };
    for name in rest {
        at.push(name.clone());
        if !known.contains(&at) {
            at.pop();
            break;
        }
    }
    known.contains(&at).then_some(at)
}

#[test]
fn paths_are_found_in_every_form() {
    let known = ["a", "a::b", "a::b::c", "d"].map(|module| module.split("::").map(str::to_owned).collect());
    let known = BTreeSet::from(known);
    let check = |code: &str, expected: &[&str]| {
        let module = vec!["a".to_owned(), "b".to_owned()];
        let found: Vec<String> = named(&module, &known, code)
            .iter()
            .map(|module| module.join("::"))
            .collect();
        assert_eq!(found, expected, "{code}");
    };
    check("use super::{x, b::Y};", &["a"]);
    check("use crate::{a::{X, b::c::Z},\n d};", &["a", "a::b::c", "d"]);
    check("let x = crate::d::X::new(c::f());", &["a::b::c", "d"]);
    check("pub use c::X;", &[]);
    check("use std::{a, d};", &[]);
    check("use super::super::d::X;", &["d"]);
}
