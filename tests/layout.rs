//! The architecture's rules on the source tree itself: who may import whom, and how long a file may be.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each part of the crate with the parts it may import. `error` is free to all.
const ALLOWED: &[(&str, &[&str])] = &[
    ("ir", &[]),
    ("ops", &["ir"]),
    ("measure", &["ir"]),
    ("numpy", &["ir"]),
    ("files", &[]),
    ("passes", &["ir", "ops", "measure", "numpy", "files"]),
    ("lower", &["ir", "ops", "files"]),
    ("runtime", &["ir", "ops", "lower", "measure", "numpy"]),
    ("report", &["ir", "ops", "lower", "measure", "passes", "runtime"]),
    ("driver", &["ir", "ops", "measure", "passes", "lower", "runtime", "report"]),
    ("cli", &["ir", "ops", "measure", "passes", "lower", "runtime", "report", "driver"]),
    ("error", &["ir"]),
    (
        "lib",
        &["ir", "ops", "measure", "numpy", "files", "passes", "lower", "runtime", "report", "driver", "cli"],
    ),
    ("main", &[]),
];

/// A file is about one idea; past this length it is about several.
const MOST_LINES: usize = 400;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The parts of the crate that code outside its tests refers to by `crate::`, one path or a braced list of them.
fn imports(source: &str) -> BTreeSet<String> {
    let code: String = source
        .split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |all, line| all + line + "\n");
    let mut parts = BTreeSet::new();
    for (at, marker) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + marker.len()..];
        let mut depth = 0;
        let mut word = String::new();
        let mut fresh = true;
        for c in rest.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => fresh = true,
                c if c.is_alphanumeric() || c == '_' => {
                    if fresh {
                        word.push(c);
                    }
                    continue;
                }
                _ => {}
            }
            if !word.is_empty() {
                parts.insert(std::mem::take(&mut word));
                fresh = false;
            }
            if depth == 0 {
                break;
            }
        }
    }
    parts
}

#[test]
fn imports_are_read_from_every_form() {
    let source = "use crate::{\n    error::{Error, Result},\n    ir::Model,\n};\nuse crate::ops;\nfn f() { crate::lower::g() }\n// crate::cli\n#[cfg(test)]\nuse crate::runtime;";
    let found: Vec<_> = imports(source).into_iter().collect();
    assert_eq!(found, ["error", "ir", "lower", "ops"]);
}

#[test]
fn every_part_imports_only_what_it_may() {
    let mut files = Vec::new();
    rust_files(&project().join("src"), &mut files);
    let mut wrong = Vec::new();
    for path in files {
        let inside = path.strip_prefix(project().join("src")).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let part = first.trim_end_matches(".rs");
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == part) else {
            wrong.push(format!("src/{first} is no part this test knows"));
            continue;
        };
        let known = |name: &str| ALLOWED.iter().any(|(part, _)| *part == name);
        for import in imports(&fs::read_to_string(&path).unwrap()) {
            if known(&import) && import != part && import != "error" && !allowed.contains(&import.as_str()) {
                wrong.push(format!("src/{} imports {import}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the architecture:\n{}", wrong.join("\n"));
}

#[test]
fn no_file_is_longer_than_one_idea() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "xtask", "examples"] {
        let folder = project().join(folder);
        if folder.is_dir() {
            rust_files(&folder, &mut files);
        }
    }
    let long: Vec<_> = files
        .into_iter()
        .map(|path| (fs::read_to_string(&path).unwrap().lines().count(), path))
        .filter(|(lines, _)| *lines > MOST_LINES)
        .map(|(lines, path)| format!("{lines} {}", path.strip_prefix(project()).unwrap().display()))
        .collect();
    assert!(long.is_empty(), "files over {MOST_LINES} lines; split them by idea:\n{}", long.join("\n"));
}
