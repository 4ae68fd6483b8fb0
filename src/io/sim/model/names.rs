//! Names of files and directories, and what they lead to.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use super::{DescriptionId, Model, Node, names, os_error};
use crate::io::DirEntry;
use crate::io::sim::node::{DirEffect, DirNode};

impl Model {
    pub(in crate::io::sim) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        if names(path)?.is_empty() {
            return Err(os_error(Errno::EEXIST));
        }
        self.create(path, Node::Dir(DirNode::default())).map(drop)
    }

    pub(in crate::io::sim) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name) = self.place_of(from)?;
        let (to_dir, to_name) = self.place_of(to)?;
        let node = self.node_of(from)?;
        self.file(node)?;
        if let Some(replaced) = self.dir(to_dir)?.get(&to_name) {
            self.file(replaced)?;
            if replaced == node {
                return Ok(());
            }
        }
        self.check_writable()?;
        if from_dir == to_dir {
            self.change_dir(from_dir, DirEffect::Rename(from_name, to_name));
        } else {
            self.change_dir(to_dir, DirEffect::Link(to_name, node));
            self.change_dir(from_dir, DirEffect::Unlink(from_name));
        }
        Ok(())
    }

    pub(in crate::io::sim) fn hard_link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.node_of(from)?;
        self.file(node)?;
        let (dir, name) = self.place_of(to)?;
        if self.dir(dir)?.get(&name).is_some() {
            return Err(os_error(Errno::EEXIST));
        }
        self.check_writable()?;
        self.change_dir(dir, DirEffect::Link(name, node));
        Ok(())
    }

    pub(in crate::io::sim) fn is_within(&self, path: &Path, dir: &Path) -> io::Result<bool> {
        let dir = self.node_of(dir)?;
        self.node_of(path)?;
        for above in path.ancestors() {
            if self.node_of(above)? == dir {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(in crate::io::sim) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let node = self.node_of(path)?;
        self.file(node)?;
        self.check_writable()?;
        let (dir, name) = self.place_of(path)?;
        self.change_dir(dir, DirEffect::Unlink(name));
        Ok(())
    }

    pub(in crate::io::sim) fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = self.dir(self.node_of(path)?)?;
        let entries = dir.names().iter().map(|(name, node)| DirEntry {
            name: name.clone(),
            is_file: matches!(self.nodes[node], Node::File(_)),
        });
        Ok(entries.collect())
    }

    /// The length of the file that `path` leads to.
    pub(in crate::io::sim) fn length(&self, path: &Path) -> io::Result<u64> {
        Ok(self.file(self.node_of(path)?)?.cached().len() as u64)
    }

    /// How many names the file has.
    pub(in crate::io::sim) fn links(&self, description: DescriptionId) -> u64 {
        let node = self.descriptions[&description].node;
        let names = |dir: &Node| match dir {
            Node::Dir(dir) => dir.names().values().filter(|named| **named == node).count(),
            Node::File(_) => 0,
        };
        self.nodes.values().map(names).sum::<usize>() as u64
    }

    pub(in crate::io::sim) fn is_at(
        &self,
        description: DescriptionId,
        path: &Path,
    ) -> io::Result<bool> {
        match self.node_of(path) {
            Ok(node) => Ok(node == self.descriptions[&description].node),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
