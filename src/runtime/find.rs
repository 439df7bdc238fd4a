//! Finding the ONNX Runtime library, and loading it where it is needed, once per process.
//!
//! Places, in order: what the caller names; `ORT_DYLIB_PATH`; beside the program (its folder and `../lib`); the set-up
//! folder `.onnx-compress/ort` in the current folder, the program's, or a parent of either; the active Python virtual
//! environment; the `onnxruntime` package of `python3`. A place that the user named is the only one tried.

use crate::error::{Error, Result};
use ort::environment::Environment;
use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard},
};

/// ONNX Runtime, loaded when a session first needs it. Cheap to clone; a process has one.
#[derive(Clone)]
pub struct Runtime {
    library: Library,
}

/// A library that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Library {
    path: PathBuf,
    source: &'static str,
    minor: u32,
}

/// One place to look: what it is called, and the file or folder.
type Place = (&'static str, PathBuf);

static FOUND: Mutex<Option<Runtime>> = Mutex::new(None);
static LOADED: Mutex<Option<Environment>> = Mutex::new(None);

impl Runtime {
    /// Finds the library. `explicit` is a library file, or a folder that holds one.
    ///
    /// A second call returns what the first found, unless it names another library: a process can load only one.
    pub fn find(explicit: Option<&Path>) -> Result<Runtime> {
        let mut found = locked(&FOUND);
        if let Some(runtime) = &*found {
            let Some(path) = explicit else { return Ok(runtime.clone()) };
            let other = locate([("the path given", path.to_owned())])?;
            return match same_file(&other.path, &runtime.library.path) {
                true => Ok(runtime.clone()),
                false => Err(Error::Runtime(format!(
                    "{} cannot be loaded: this process already uses {}",
                    other.path.display(),
                    runtime.library.path.display()
                ))),
            };
        }
        let library = match (explicit, env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty())) {
            (Some(path), _) => locate([("the path given", path.to_owned())]),
            (None, Some(path)) => locate([("ORT_DYLIB_PATH", path.into())]),
            (None, None) => locate(places()),
        }?;
        Ok(found.insert(Runtime { library }).clone())
    }
    /// The loaded library. Loading takes longer than many a pass, so it waits until something runs.
    pub(super) fn environment(&self) -> Result<Environment> {
        let mut loaded = locked(&LOADED);
        if let Some(environment) = &*loaded {
            return Ok(environment.clone());
        }
        let path = &self.library.path;
        let failed = |why: String| {
            let help = "name another library with --ort or ORT_DYLIB_PATH";
            Error::Runtime(format!("cannot load {}: {why} ({help})", path.display()))
        };
        let builder = ort::init_from(path).map_err(|why| failed(why.to_string()))?;
        let builder = builder.with_name("onnx-compress").with_telemetry(false);
        let environment = builder.build().map_err(|why| failed(why.to_string()))?;
        environment.set_log_level(ort::logging::LogLevel::Fatal);
        Ok(loaded.insert(environment).clone())
    }
    /// The library file.
    pub fn path(&self) -> &Path {
        &self.library.path
    }
    /// How the library was found: "set-up folder".
    pub fn source(&self) -> &'static str {
        self.library.source
    }
    /// Its version: "1.31.1", or "1.31" where the file's name does not tell the patch.
    pub fn version(&self) -> String {
        named_version(&self.library.path).unwrap_or_else(|| format!("1.{}", self.library.minor))
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ONNX Runtime {} at {} ({})", self.version(), self.path().display(), self.source())
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || fs::canonicalize(a).ok().zip(fs::canonicalize(b).ok()).is_some_and(|(a, b)| a == b)
}

/// Everywhere to look where the user named nothing. Later places are worked out only when reached.
fn places() -> impl Iterator<Item = Place> {
    let program = env::current_exe().ok().and_then(|path| Some(path.parent()?.to_owned()));
    let beside = program.clone().into_iter().flat_map(|folder| [folder.clone(), folder.join("../lib")]);
    let roots = env::current_dir().ok().into_iter().chain(program);
    let setup = roots.flat_map(|root| {
        let folders: Vec<_> = root.ancestors().map(|folder| folder.join(".onnx-compress/ort")).collect();
        folders
    });
    let virtual_env = env::var_os("VIRTUAL_ENV").into_iter().flat_map(|root| site_packages(Path::new(&root)));
    let python = std::iter::once_with(python_package).flatten();
    (beside.map(|path| ("beside the program", path)))
        .chain(setup.map(|path| ("set-up folder", path)))
        .chain(virtual_env.map(|path| ("virtual environment", path)))
        .chain(python.map(|path| ("Python package", path)))
}

/// The package folders of a Python virtual environment.
fn site_packages(root: &Path) -> Vec<PathBuf> {
    let versions = fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
    let mut folders: Vec<_> = versions.map(|entry| entry.path().join("site-packages")).collect();
    folders.sort();
    folders.push(root.join("Lib/site-packages"));
    folders
}

/// The folder of the `onnxruntime` package of `python3`, asked for without importing it.
fn python_package() -> Option<PathBuf> {
    const SCRIPT: &str = "import importlib.util as u; s = u.find_spec('onnxruntime'); \
        print(next(iter(s.submodule_search_locations), '') if s else '', end='')";
    let python = if cfg!(windows) { "python" } else { "python3" };
    let output = Command::new(python).args(["-c", SCRIPT]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    (!path.is_empty()).then(|| path.into())
}

/// Whether a file is named like the library itself (not like its provider plug-ins).
fn is_library_name(name: &str) -> bool {
    let numbered = |rest: &str| rest.chars().all(|c| c.is_ascii_digit() || c == '.');
    let unix = name.strip_prefix("libonnxruntime").is_some_and(|rest| {
        rest.strip_prefix(".so").is_some_and(numbered) || rest.strip_suffix(".dylib").is_some_and(numbered)
    });
    unix || name.eq_ignore_ascii_case("onnxruntime.dll")
}

/// The version in a library's name: "1.31.1" of `libonnxruntime.so.1.31.1`.
fn named_version(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let version = name.split(|c: char| !(c.is_ascii_digit() || c == '.')).find(|part| part.len() > 1)?;
    let version = version.trim_matches('.');
    version.starts_with("1.").then(|| version.to_owned())
}

/// The minor version of a library. Opening one costs as much as simplifying a small model, so a name that tells the
/// version is believed; whether the library works shows when something runs.
fn minor(path: &Path) -> Option<u32> {
    let named = named_version(path).and_then(|version| version.split('.').nth(1)?.parse().ok());
    named.or_else(|| ort::util::probe(path))
}

/// Library files at a place: the file itself, or those in the folder where its kind of package keeps them.
fn libraries(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let folders = ["", "lib", "capi", "onnxruntime/capi"];
    let mut found = Vec::new();
    for folder in folders.map(|inner| place.join(inner)) {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let files = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_library_name));
        let mut files: Vec<_> = files.map(|entry| folder.join(entry.file_name())).collect();
        files.sort();
        found.extend(files);
    }
    found
}

/// The first usable library of the given places, or one error that tells all that was tried and how to get one.
fn locate(places: impl IntoIterator<Item = Place>) -> Result<Library> {
    let (mut empty, mut unusable): (Vec<(&str, Vec<PathBuf>)>, Vec<String>) = Default::default();
    for (source, place) in places {
        let found = libraries(&place);
        if found.is_empty() {
            match empty.iter_mut().find(|(name, _)| *name == source) {
                Some((_, paths)) if paths.contains(&place) => {}
                Some((_, paths)) => paths.push(place),
                None => empty.push((source, vec![place])),
            }
        }
        for path in found {
            match minor(&path) {
                Some(minor) if minor >= ort::MINOR_VERSION => return Ok(Library { path, source, minor }),
                Some(minor) => unusable.push(format!(
                    "{} is version 1.{minor}; 1.{} or newer is needed",
                    path.display(),
                    ort::MINOR_VERSION
                )),
                None => unusable.push(format!("{} cannot be loaded as ONNX Runtime", path.display())),
            }
        }
    }
    let mut text = String::from("no usable library was found.");
    for why in unusable {
        text += &format!("\n  {why}");
    }
    for (source, paths) in empty {
        let shown: Vec<_> = paths.iter().take(2).map(|path| path.display().to_string()).collect();
        let more = if paths.len() > 2 { " and its parents" } else { "" };
        text += &format!("\n  {source}: nothing in {}{more}", shown.join(", "));
    }
    text += "\nGet one with `python3 -m pip install onnxruntime`, or name a library file or its folder with --ort \
             or ORT_DYLIB_PATH.";
    Err(Error::Runtime(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_library_itself_counts() {
        let good = [
            "libonnxruntime.so",
            "libonnxruntime.so.1.31.1",
            "libonnxruntime.1.24.0.dylib",
            "onnxruntime.dll",
        ];
        let bad = ["libonnxruntime_providers_shared.so", "libonnxruntime.so.bak", "onnxruntime.py"];
        assert!(good.into_iter().all(is_library_name) && !bad.into_iter().any(is_library_name));
    }
    #[test]
    fn a_name_tells_the_version() {
        let version = |name: &str| named_version(Path::new(name));
        assert_eq!(version("/v2.0/libonnxruntime.so.1.31.1").as_deref(), Some("1.31.1"));
        assert_eq!(version("libonnxruntime.1.24.0.dylib").as_deref(), Some("1.24.0"));
        assert_eq!(version("libonnxruntime.so"), None);
        assert_eq!(version("libonnxruntime.so.1"), None);
        assert_eq!(version("onnxruntime.dll"), None);
    }
    #[test]
    fn one_message_lists_the_places_and_the_ways_to_get_it() {
        let none = locate([]).unwrap_err().to_string();
        assert!(none.contains("pip install onnxruntime") && none.contains("ORT_DYLIB_PATH"), "{none}");
        let folder = tempfile::tempdir().unwrap();
        let fake = folder.path().join("libonnxruntime.so");
        fs::write(&fake, "no library").unwrap();
        let places =
            [("the path given", folder.path().join("nowhere")), ("set-up folder", folder.path().to_owned())];
        let text = locate(places).unwrap_err().to_string();
        assert!(text.contains("nowhere") && text.contains("the path given"), "{text}");
        assert!(text.contains(&format!("{} cannot be loaded", fake.display())), "{text}");
    }
}
