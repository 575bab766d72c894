//! Output is whole or absent: a file is written beside its final name and renamed, a run owns `OUT.partial/` until it is done.

use crate::{Error, Result};
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A file that appears under its name only when it is complete. Dropping it before [`OutputFile::commit`] leaves no trace.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    temporary: tempfile::NamedTempFile,
}

impl OutputFile {
    /// Starts a file that will replace `path`, or create it.
    ///
    /// # Errors
    /// The folder does not exist or cannot be written, or `path` is a folder or a device.
    pub fn create(path: &Path) -> Result<Self> {
        // A symbolic link stays one: what it points to is replaced.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        if let Ok(there) = std::fs::metadata(&path)
            && !there.is_file()
        {
            return Err(Error::content(&path, "output", "is a folder or a device, expected the name of a file to write"));
        }
        let name = path.file_name().ok_or_else(|| Error::content(&path, "output", "names no file"))?;
        let mut prefix = OsString::from(".");
        prefix.push(name);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(PARTIAL);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666)); // the umask takes its share
        }
        let temporary = builder.tempfile_in(folder_of(&path)).map_err(|e| no_place(&path, &e))?;
        Ok(Self { path, temporary })
    }

    /// Whether `path` can be written, for a look before long work; nothing is left there.
    ///
    /// # Errors
    /// As [`OutputFile::create`].
    pub fn check(path: &Path) -> Result<()> {
        Self::create(path).map(drop)
    }

    /// Where the bytes are for now: for libraries that open files by name.
    pub fn temporary_path(&self) -> &Path {
        self.temporary.path()
    }

    /// Puts the bytes on the disk and gives the file its name.
    ///
    /// # Errors
    /// The disk is full or the name cannot be taken; the final name then holds what it held before.
    pub fn commit(self) -> Result<()> {
        let Self { path, temporary } = self;
        // A library may have written through its own handle, so the bytes are flushed by name.
        let synced = File::open(temporary.path()).and_then(|f| f.sync_all());
        synced.map_err(|e| Error::os(&path, e))?;
        temporary.persist(&path).map_err(|e| Error::os(&path, e.error))?;
        sync_folder(&path);
        Ok(())
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.temporary.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.temporary.flush()
    }
}

/// Writes `bytes` to `path`, whole or not at all.
///
/// # Errors
/// As [`OutputFile::create`] and [`OutputFile::commit`].
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OutputFile::create(path)?;
    file.write_all(bytes).map_err(|e| Error::os(path, e))?;
    file.commit()
}

/// Lets `write` fill a file by name, which becomes `path` when `write` succeeds and vanishes when it fails.
///
/// # Errors
/// Those of `write`, of [`OutputFile::create`] and of [`OutputFile::commit`].
pub fn write_whole_with<T, E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&Path) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let file = OutputFile::create(path)?;
    let value = write(file.temporary_path())?;
    file.commit()?;
    Ok(value)
}

/// What to do when the output is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Stop with an error that names `--force` and, where runs are resumable, `--resume`.
    Refuse {
        /// Whether the command has `--resume`.
        resumable: bool,
    },
    /// `--force`: replace a finished or unfinished output of Halation, never anything else.
    Force,
    /// `--resume`: go on with an unfinished run; start when there is none; a finished run stays as it is.
    Resume,
}

/// How a run begins.
#[derive(Debug)]
pub enum Started {
    /// An empty `OUT.partial/`.
    Fresh(OutputDir),
    /// The `OUT.partial/` of a run that was interrupted, with all its files.
    Resumed(OutputDir),
    /// `--resume` was asked for and the run had ended: nothing is left to do.
    Complete(PathBuf),
}

/// The folder `OUT.partial/` of a running job: its files are rewritten whole, and it becomes `OUT` at the end.
///
/// A lock keeps a second run out. Dropping it without [`OutputDir::finish`] leaves the files for `--resume`.
#[derive(Debug)]
pub struct OutputDir {
    out: PathBuf,
    partial: PathBuf,
    lock: File,
    replace: bool,
}

const LOCK: &str = ".lock";
/// What the name of a running job's folder ends with.
const PARTIAL: &str = ".partial";
/// Every finished output holds this file; `--force` deletes no folder without it.
const MARK: &str = "run.toml";

impl OutputDir {
    /// Whether [`OutputDir::begin`] would begin, but for a lock: for a plan, or before long work. Nothing is left there.
    ///
    /// # Errors
    /// `out` or its partial folder exists and `existing` does not allow it, `--force` meets a folder that is no output of Halation, or
    /// the place does not exist or cannot be written.
    pub fn check(out: &Path, existing: Existing) -> Result<()> {
        let out = named(out)?;
        let refuse = |path: &Path, problem: String| Err(Error::content(path, "output", problem));
        if out.exists() {
            match existing {
                Existing::Refuse { resumable } => {
                    let resume = if resumable { ", --resume keeps a finished run and continues an unfinished one" } else { "" };
                    return refuse(&out, format!("exists; --force replaces it{resume}"));
                }
                Existing::Resume if out.join(MARK).is_file() => return Ok(()),
                Existing::Resume => {
                    return refuse(&out, format!("exists but holds no {MARK}, so it is no run to resume; choose another name"));
                }
                Existing::Force => check_replaceable(&out)?,
            }
        }
        let partial = partial_of(&out);
        if let (Existing::Refuse { resumable }, true) = (existing, partial.exists()) {
            return Err(unfinished(&partial, resumable));
        }
        let first = if partial.exists() { partial.join(LOCK) } else { partial };
        tempfile::tempfile_in(folder_of(&first)).map(drop).map_err(|e| no_place(&first, &e))
    }

    /// Takes hold of `OUT.partial/` for the output folder `out`.
    ///
    /// # Errors
    /// As [`OutputDir::check`], and when another run holds the partial folder or the operating system refuses.
    pub fn begin(out: &Path, existing: Existing) -> Result<Started> {
        Self::check(out, existing)?;
        let out = named(out)?;
        if existing == Existing::Resume && out.exists() {
            return Ok(Started::Complete(out));
        }
        let partial = partial_of(&out);
        let fresh = match std::fs::create_dir(&partial) {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(Error::os(&partial, e)),
        };
        let lock = take_lock(&partial)?;
        let dir = Self { replace: existing == Existing::Force, out, partial, lock };
        if fresh {
            return Ok(Started::Fresh(dir));
        }
        match existing {
            // Another run has begun and stopped since the check.
            Existing::Refuse { resumable } => Err(unfinished(&dir.partial, resumable)),
            Existing::Resume => Ok(Started::Resumed(dir)),
            Existing::Force => {
                dir.clear()?;
                Ok(Started::Fresh(dir))
            }
        }
    }

    /// The folder to write into while the run lasts.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// The folder that it becomes.
    pub fn final_path(&self) -> &Path {
        &self.out
    }

    /// Rewrites the file `name` of the folder, whole or not at all.
    ///
    /// # Errors
    /// As [`write_whole`].
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_whole(&self.partial.join(name), bytes)
    }

    /// Gives the folder its final name, in place of an older output under `--force`. The folder must hold `run.toml`.
    ///
    /// # Errors
    /// `run.toml` is missing, or the operating system refuses; the files then stay in the partial folder.
    pub fn finish(self) -> Result<PathBuf> {
        if !self.partial.join(MARK).is_file() {
            return Err(Error::content(&self.partial, MARK, "is missing, so the run cannot be finished"));
        }
        let older = if self.replace && self.out.exists() {
            check_replaceable(&self.out)?;
            let aside = tempfile::Builder::new()
                .prefix(".replaced")
                .tempdir_in(folder_of(&self.out))
                .map_err(|e| Error::os(&self.out, e))?;
            std::fs::rename(&self.out, aside.path().join("out")).map_err(|e| Error::os(&self.out, e))?;
            Some(aside)
        } else {
            None
        };
        if let Err(error) = std::fs::rename(&self.partial, &self.out) {
            if let Some(aside) = &older {
                // Best effort: the older output comes back when the new one cannot take its place.
                let _ = std::fs::rename(aside.path().join("out"), &self.out);
            }
            return Err(Error::os(&self.out, error));
        }
        let _ = std::fs::remove_file(self.out.join(LOCK));
        sync_folder(&self.out);
        Ok(self.out.clone())
    }

    /// Deletes the partial folder and all that is in it.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn discard(self) -> Result<()> {
        std::fs::remove_dir_all(&self.partial).map_err(|e| Error::os(&self.partial, e))
    }

    fn clear(&self) -> Result<()> {
        let fail = |e| Error::os(&self.partial, e);
        for entry in std::fs::read_dir(&self.partial).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_name() == LOCK {
                continue;
            }
            let path = entry.path();
            if entry.file_type().map_err(fail)?.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }
                .map_err(|e| Error::os(&path, e))?;
        }
        Ok(())
    }
}

impl Drop for OutputDir {
    fn drop(&mut self) {
        // An empty lock file means "nobody" also on file systems that cannot lock.
        let _ = self.lock.set_len(0);
    }
}

/// The folder that a run writing to `out` owns while it lasts.
pub fn partial_of(out: &Path) -> PathBuf {
    let mut name = out.file_name().map(OsString::from).unwrap_or_default();
    name.push(PARTIAL);
    folder_of(out).join(name)
}

/// What to say to someone who reads `path`, an output folder or a file in one, when the run that writes there is not finished, be it
/// that `path` names the final folder or the partial one; none when there is no such run, or `path` is a file that can be read.
pub fn unfinished_run(path: &Path) -> Option<Error> {
    if path.is_file() {
        return None;
    }
    let folders = [Some(path), path.parent()].into_iter().flatten().filter_map(|folder| named(folder).ok());
    let (out, partial) = folders.into_iter().find_map(|folder| {
        let name = folder.file_name()?.to_str()?;
        let (out, partial) = match name.strip_suffix(PARTIAL) {
            Some(name) => (folder_of(&folder).join(name), folder),
            None if folder.exists() => return None,
            None => (folder.clone(), partial_of(&folder)),
        };
        // Another program's folder may have such a name; a lock it has not.
        partial.join(LOCK).is_file().then_some((out, partial))
    })?;
    let record = std::fs::read_to_string(partial.join(MARK)).ok().and_then(|text| text.parse::<toml::Table>().ok());
    let how = match record.as_ref().and_then(|all| all.get("record")?.get("command")?.as_str()) {
        Some(command) => {
            format!("`halation {command} -o {} --resume` goes on with it", out.strip_prefix(".").unwrap_or(&out).display())
        }
        None => "run its command again, with --resume where it has that option, otherwise with --force".into(),
    };
    let problem = format!("is of a run that is not finished, expected a finished one; unless it still runs, {how}");
    Some(Error::content(&partial, "output", problem))
}

/// `out` without a trailing slash or dot.
fn named(out: &Path) -> Result<PathBuf> {
    let name = out.file_name().ok_or_else(|| Error::content(out, "output", "names no folder to write"))?;
    Ok(folder_of(out).join(name))
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn unfinished(partial: &Path, resumable: bool) -> Error {
    let resume = if resumable { "--resume continues it, " } else { "" };
    Error::content(partial, "output", format!("holds an unfinished run; {resume}--force starts it again"))
}

/// What to do about `path`, which cannot be written: its folder is not there, or takes nothing.
fn no_place(path: &Path, error: &std::io::Error) -> Error {
    let folder = folder_of(path);
    let shown = folder.display();
    let problem = if folder.is_dir() {
        format!("cannot be written into {shown} ({error}); allow writing there or choose another place")
    } else {
        format!("the folder {shown} does not exist; create it (mkdir -p {shown}) or choose another place")
    };
    Error::content(path, "output", problem)
}

/// The rename itself must reach the disk; file systems that cannot do that for folders are left alone.
fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(folder_of(path)) {
        let _ = folder.sync_all();
    }
}

fn check_replaceable(out: &Path) -> Result<()> {
    let mut entries = std::fs::read_dir(out).map_err(|e| Error::os(out, e))?;
    if entries.next().is_none() || out.join(MARK).is_file() {
        return Ok(());
    }
    Err(Error::content(
        out,
        "output",
        format!("is no output of halation (it holds no {MARK}), so --force does not replace it; choose another name"),
    ))
}

fn take_lock(partial: &Path) -> Result<File> {
    let path = partial.join(LOCK);
    let mut lock =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(|e| Error::os(&path, e))?;
    let mut owner = String::new();
    lock.read_to_string(&mut owner).map_err(|e| Error::os(&path, e))?;
    let owner = owner.trim();
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::content(
                partial,
                "output",
                format!("another run ({owner}) is writing it; wait for it or choose another name"),
            ));
        }
        Err(TryLockError::Error(_)) if owner.is_empty() => {}
        Err(TryLockError::Error(e)) => {
            return Err(Error::content(
                partial,
                LOCK,
                format!(
                    "this file system cannot lock ({e}) and {owner} was writing here; if that run has ended, delete {LOCK} and start again"
                ),
            ));
        }
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let line = format!("process {} on {}\n", std::process::id(), host.trim());
    lock.set_len(0).map_err(|e| Error::os(&path, e))?;
    std::io::Seek::rewind(&mut lock).and_then(|()| lock.write_all(line.as_bytes())).map_err(|e| Error::os(&path, e))?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSE: Existing = Existing::Refuse { resumable: true };

    fn entries(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn fresh(out: &Path, existing: Existing) -> OutputDir {
        match OutputDir::begin(out, existing).unwrap() {
            Started::Fresh(dir) => dir,
            other => panic!("expected a fresh folder, found {other:?}"),
        }
    }

    #[test]
    fn file_is_whole_or_absent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a [1].dat");
        write_whole(&path, b"first").unwrap();
        {
            let mut half = OutputFile::create(&path).unwrap();
            half.write_all(b"half").unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        let failed = write_whole_with(&path, |p| {
            std::fs::write(p, b"more").unwrap();
            Err::<(), _>(Error::content(p, "x", "disk full"))
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        write_whole_with(&path, |p| std::fs::write(p, b"second").map_err(|e| Error::os(p, e))).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(entries(folder.path()), ["a [1].dat"]);
        assert!(write_whole(Path::new("/dev/null"), b"x").is_err(), "a device must not be replaced");
        assert!(write_whole(folder.path(), b"x").is_err());
        let missing = write_whole(&folder.path().join("no/such"), b"x").unwrap_err().to_string();
        assert!(missing.contains("does not exist; create it (mkdir -p ") && missing.contains("no) or"), "{missing}");
        OutputFile::check(&path).unwrap();
        assert!(OutputFile::check(folder.path()).is_err());
        assert_eq!(entries(folder.path()), ["a [1].dat"]);
    }

    /// A look at the output folder leaves nothing and refuses what beginning would refuse.
    #[test]
    fn output_folder_is_checked_before() {
        let folder = tempfile::tempdir().unwrap();
        let fails = |out: &Path, existing| OutputDir::check(out, existing).unwrap_err().to_string();
        OutputDir::check(&folder.path().join("new"), REFUSE).unwrap();
        assert!(fails(&folder.path().join("no/such"), REFUSE).contains("no does not exist; create it"));
        #[cfg(target_os = "linux")]
        assert!(fails(Path::new("/proc/x"), REFUSE).contains("cannot be written into /proc"));
        std::fs::create_dir(folder.path().join("run.partial")).unwrap();
        assert!(fails(&folder.path().join("run"), REFUSE).contains("--resume continues it, --force"));
        let once = fails(&folder.path().join("run"), Existing::Refuse { resumable: false });
        assert!(once.contains("--force") && !once.contains("--resume"), "{once}");
        OutputDir::check(&folder.path().join("run"), Existing::Resume).unwrap();
        // Some other program's folder.
        assert!(
            unfinished_run(&folder.path().join("run")).is_none() && unfinished_run(&folder.path().join("run.partial")).is_none()
        );
        assert!(fails(folder.path(), REFUSE).contains("exists; --force"));
        assert_eq!(entries(folder.path()), ["run.partial"]);
        assert!(entries(&folder.path().join("run.partial")).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_link_survives() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::write(&real, b"old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write_whole(&link, b"new").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&real).unwrap(), b"new");
    }

    #[test]
    fn run_begins_resumes_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("m87");
        let dir = fresh(&out, REFUSE);
        let busy = OutputDir::begin(&out, Existing::Force).unwrap_err().to_string();
        assert!(busy.contains("another run (process"), "{busy}");
        dir.write("state", b"1").unwrap();
        drop(dir);
        assert!(!out.exists());
        let unfinished = OutputDir::begin(&out, REFUSE).unwrap_err().to_string();
        assert!(unfinished.contains("--resume") && unfinished.contains("--force"), "{unfinished}");
        let read = || {
            ["m87", "m87/posterior.h5", "m87.partial", "m87.partial/posterior.h5"]
                .map(|name| unfinished_run(&folder.path().join(name)))
        };
        let all_say =
            |expected: &str| read().into_iter().for_each(|e| assert!(e.unwrap().to_string().contains(expected), "{expected}"));
        all_say(
            "m87.partial: output: is of a run that is not finished, expected a finished one; unless it still runs, run its command again",
        );
        let Started::Resumed(dir) = OutputDir::begin(&out, Existing::Resume).unwrap() else { panic!("expected a resumed run") };
        assert_eq!(std::fs::read(dir.path().join("state")).unwrap(), b"1");
        dir.write("run.toml", b"[record]\ncommand = \"reconstruct vlbi\"").unwrap();
        all_say(&format!("`halation reconstruct vlbi -o {} --resume` goes on", out.display()));
        assert_eq!(dir.finish().unwrap(), out);
        assert!(read().iter().all(Option::is_none));
        assert_eq!(entries(&out), ["run.toml", "state"]);
        assert_eq!(entries(folder.path()), ["m87"]);
        assert!(matches!(OutputDir::begin(&out, Existing::Resume).unwrap(), Started::Complete(_)));
        let exists = OutputDir::begin(&out, REFUSE).unwrap_err().to_string();
        assert!(exists.contains("--resume") && exists.contains("--force"), "{exists}");
    }

    #[test]
    fn force_replaces_outputs_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("thesis.tex"), b"precious").unwrap();
        assert!(OutputDir::begin(&out, Existing::Force).unwrap_err().to_string().contains("no output of halation"));
        assert!(OutputDir::begin(&out, Existing::Resume).is_err());
        std::fs::write(out.join("run.toml"), b"").unwrap();
        let dir = fresh(&out, Existing::Force);
        dir.write("junk", b"").unwrap();
        drop(dir);
        let dir = fresh(&out, Existing::Force);
        assert!(!dir.path().join("junk").exists(), "--force starts from an empty folder");
        assert!(out.join("thesis.tex").exists(), "the old output stays until the new one is whole");
        assert!(dir.write("run.toml", b"new").is_ok());
        dir.finish().unwrap();
        assert_eq!(entries(&out), ["run.toml"]);
        assert_eq!(entries(folder.path()), ["out"]);
        let dir = fresh(&folder.path().join("b"), Existing::Resume);
        dir.discard().unwrap();
        assert_eq!(entries(folder.path()), ["out"]);
    }
}
