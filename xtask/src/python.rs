//! The user's `python3`: whether it will do, and what we ask of it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};

/// The oldest Python that the pinned packages come for.
const OLDEST: (u32, u32) = (3, 11);

/// A `python3` of known version.
pub(crate) struct Python {
    pub(crate) version: String,
}

impl Python {
    /// The `python3` on the path, if it is recent enough.
    pub(crate) fn find() -> Result<Self> {
        let version =
            Command::new("python3").args(["-c", "import sys; print(*sys.version_info[:2])"]).output();
        let Ok(version) = version else {
            bail!("there is no `python3` on the path: install Python 3.11 or newer, with pip");
        };
        let version = String::from_utf8_lossy(&version.stdout).trim().replace(' ', ".");
        let parsed = version.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        ensure!(
            parsed.is_some_and(|parsed: (u32, u32)| parsed >= OLDEST),
            "`python3` is Python {version}, but 3.11 or newer is needed: install one and put it first on the path"
        );
        Ok(Self { version })
    }

    /// Installs exactly the packages of a pip requirements file, which names their hashes, into a folder.
    pub(crate) fn install(&self, requirements: &Path, target: &Path) -> Result<()> {
        self.pip(&["install", "--target"], target, requirements)
    }

    /// Downloads exactly the packages of a pip requirements file as they are.
    pub(crate) fn download(&self, requirements: &Path, target: &Path) -> Result<()> {
        // These are only unpacked, so it does not matter which Python they would run on.
        self.pip(&["download", "--ignore-requires-python", "--dest"], target, requirements)
    }

    /// Runs one of our scripts with packages from these folders and no others; what it prints is shown.
    pub(crate) fn script(&self, script: &Path, packages: &[PathBuf], args: &[&OsStr]) -> Result<()> {
        let output = Command::new("python3")
            .arg(script)
            .args(args)
            .env("PYTHONPATH", std::env::join_paths(packages)?)
            .env("PYTHONNOUSERSITE", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} failed:\n{}", script.display(), last_lines(&errors));
        print!("{}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    }

    fn pip(&self, action: &[&str], target: &Path, requirements: &Path) -> Result<()> {
        let output = Command::new("python3")
            .args(["-m", "pip"])
            .args(action)
            .arg(target)
            .args([
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                "--require-hashes",
                "--retries=2",
                "--requirement",
            ])
            .arg(requirements)
            .envs([("PIP_DISABLE_PIP_VERSION_CHECK", "1"), ("PIP_ROOT_USER_ACTION", "ignore")])
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let version = &self.version;
        let advice = if errors.contains("No module named pip") {
            "this Python has no pip: install it (`python3 -m ensurepip`, or the system's package python3-pip)"
                .into()
        } else if errors.contains("DO NOT MATCH THE HASHES") {
            format!(
                "a package is not the pinned one: the pins are for CPython 3.11 to 3.14 on Linux (x86_64, aarch64), \
                 this is Python {version}"
            )
        } else {
            format!(
                "is the network there? Packages are fetched once; then no connection is needed. The pins are for \
                 CPython 3.11 to 3.14 on Linux (x86_64, aarch64), this is Python {version}"
            )
        };
        bail!("pip could not fetch {}: {advice}\n\n{}", requirements.display(), last_lines(&errors))
    }
}

/// The end of an error output, where the reason stands.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
