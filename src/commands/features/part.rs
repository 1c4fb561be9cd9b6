//! A file that is not there yet under its name: it is removed unless it is kept.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use quadrille_service::Error;

pub(super) struct Part<'a> {
    pub file: File,
    path: PathBuf,
    out: &'a Path,
}

impl<'a> Part<'a> {
    pub fn create(out: &'a Path) -> Result<Self, Error> {
        let name = out
            .file_name()
            .ok_or_else(|| Error::Config(format!("--out: {} names no file", out.display())))?;
        let mut part = name.to_owned();
        part.push(".part");
        let path = out.with_file_name(part);
        let file = File::create(&path)
            .map_err(|error| Error::Config(format!("--out: {}: {error}", path.display())))?;
        Ok(Part { file, path, out })
    }

    pub fn keep(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.sync_all()?;
        fs::rename(&self.path, self.out)
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        // Once it is kept, there is no such file.
        let _ = fs::remove_file(&self.path);
    }
}
