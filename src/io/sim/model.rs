//! The simulated machine: a tree of nodes, open file descriptions, and operations under way. Knows no tasks and no
//! time of its own: it is told when an operation ends.
//!
//! # Invariants
//!
//! 1. Writes and syncs take effect when they end, whether or not anybody still waits; all other operations when they
//!    are submitted.
//! 2. What a sync covers is decided when it is submitted: the changes that are there by then. What it does to them
//!    happens when it ends.
//! 3. A write in flight owns its buffer; the buffer is let go when the write ends.
//! 4. A description lives until it is closed and its last operation has ended, and so does its lock.

mod ending;
mod flight;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path};
use std::time::Duration;

use nix::errno::Errno;

pub(super) use self::flight::{Flight, FlightId, Outcome, Write, whole_pages};
use super::node::{DirEffect, DirNode, FileNode, NodeId, Written};
use super::rng::Rng;
use crate::io::{Access, BLOCK_BYTES, Geometry, Zeroing};

/// Files live in memory, so a length from a broken test or a hostile file must not eat it.
const FILE_BYTES_MAX: u64 = 1 << 30;

const ROOT: NodeId = 0;

pub(super) type DescriptionId = u64;

#[derive(Clone)]
enum Node {
    File(FileNode),
    Dir(DirNode),
}

struct Description {
    node: NodeId,
    access: Access,
    direct: bool,
    closed: bool,
    flights: usize,
}

pub(super) struct Model {
    nodes: BTreeMap<NodeId, Node>,
    nodes_made: NodeId,
    descriptions: BTreeMap<DescriptionId, Description>,
    descriptions_made: DescriptionId,
    /// By the time of their end, then in the order of submission.
    flights: BTreeMap<(Duration, FlightId), Flight>,
    flights_made: FlightId,
    outcomes: BTreeMap<FlightId, Outcome>,
    /// In flight, but nobody will ask for the outcome.
    abandoned: BTreeSet<FlightId>,
    /// Numbers all changes of all nodes.
    changes_made: u64,
    space_limit: Option<u64>,
    read_only: bool,
    geometry: Geometry,
    /// Whether `zero_range` is there.
    zeroes_ranges: bool,
    /// Whether files can share blocks.
    reflinks: bool,
    /// Counts the deaths of the process: handles of an earlier life are dead.
    life: u64,
    rng: Rng,
    /// What failing writes and syncs do all the same; without it, nothing.
    failing: Option<Rng>,
}

pub(super) fn os_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

impl Model {
    pub(super) fn new(seed: u64) -> Self {
        Model {
            nodes: BTreeMap::from([(ROOT, Node::Dir(DirNode::default()))]),
            nodes_made: ROOT,
            descriptions: BTreeMap::new(),
            descriptions_made: 0,
            flights: BTreeMap::new(),
            flights_made: 0,
            outcomes: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            changes_made: 0,
            space_limit: None,
            read_only: false,
            geometry: Geometry {
                direct_align: Some(BLOCK_BYTES as u64),
                block_bytes: BLOCK_BYTES as u64,
                copy_on_write: false,
            },
            zeroes_ranges: false,
            reflinks: false,
            life: 0,
            rng: Rng::new(seed),
            failing: None,
        }
    }

    pub(super) fn life(&self) -> u64 {
        self.life
    }

    pub(super) fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) fn set_geometry(&mut self, geometry: Geometry) {
        self.geometry = geometry;
    }

    pub(super) fn set_failures_are_partial(&mut self, partial: bool) {
        self.failing = partial.then(|| Rng::new(self.rng.next()));
    }

    fn file_and_failing(&mut self, node: NodeId) -> (&mut FileNode, Option<&mut Rng>) {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => (file, self.failing.as_mut()),
            _ => unreachable!("looked up as a file before"),
        }
    }

    pub(super) fn set_zeroes_ranges(&mut self, zeroes_ranges: bool) {
        self.zeroes_ranges = zeroes_ranges;
    }

    pub(super) fn set_reflinks(&mut self, reflinks: bool) {
        self.reflinks = reflinks;
    }

    pub(super) fn set_free_bytes(&mut self, free: Option<u64>) {
        self.space_limit = free.map(|free| self.used_bytes() + free);
    }

    // Names.

    fn node_of(&self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for name in names(path)? {
            let next = self.dir(node)?.get(&name);
            node = next.ok_or_else(|| os_error(Errno::ENOENT))?;
        }
        Ok(node)
    }

    /// The directory that holds the name, and the name.
    fn place_of(&self, path: &Path) -> io::Result<(NodeId, OsString)> {
        let name = names(path)?.pop().ok_or_else(|| os_error(Errno::EINVAL))?;
        let dir = self.node_of(path.parent().unwrap_or(Path::new("/")))?;
        self.dir(dir)?;
        Ok((dir, name))
    }

    fn dir(&self, node: NodeId) -> io::Result<&DirNode> {
        match &self.nodes[&node] {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(os_error(Errno::ENOTDIR)),
        }
    }

    fn dir_mut(&mut self, node: NodeId) -> &mut DirNode {
        match self.nodes.get_mut(&node) {
            Some(Node::Dir(dir)) => dir,
            _ => unreachable!("looked up as a directory before"),
        }
    }

    fn file(&self, node: NodeId) -> io::Result<&FileNode> {
        match &self.nodes[&node] {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(os_error(Errno::EISDIR)),
        }
    }

    fn file_mut(&mut self, node: NodeId) -> &mut FileNode {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => file,
            _ => unreachable!("looked up as a file before"),
        }
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes_made += 1;
        self.nodes.insert(self.nodes_made, node);
        self.nodes_made
    }

    fn next_change(&mut self) -> u64 {
        self.changes_made += 1;
        self.changes_made
    }

    fn change_dir(&mut self, dir: NodeId, effect: DirEffect) {
        let number = self.next_change();
        self.dir_mut(dir).change(effect, number);
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.read_only {
            true => Err(os_error(Errno::EROFS)),
            false => Ok(()),
        }
    }

    fn check_direct(&self) -> io::Result<()> {
        match self.geometry.direct_align {
            Some(_) => Ok(()),
            None => Err(os_error(Errno::EINVAL)),
        }
    }

    // Operations that take effect at once. The others: `flight.rs`.

    pub(super) fn open(&mut self, path: &Path, access: Access) -> io::Result<DescriptionId> {
        let node = if access == Access::Create {
            self.create(path, Node::File(FileNode::default()))?
        } else {
            let node = self.node_of(path)?;
            self.file(node)?;
            if access == Access::ReadDirect {
                self.check_direct()?;
            }
            if access == Access::Write {
                self.check_writable()?;
            }
            node
        };
        self.descriptions_made += 1;
        self.descriptions.insert(
            self.descriptions_made,
            Description {
                node,
                access,
                direct: access == Access::ReadDirect,
                closed: false,
                flights: 0,
            },
        );
        Ok(self.descriptions_made)
    }

    fn create(&mut self, path: &Path, node: Node) -> io::Result<NodeId> {
        let (dir, name) = self.place_of(path)?;
        if self.dir(dir)?.get(&name).is_some() {
            return Err(os_error(Errno::EEXIST));
        }
        self.check_writable()?;
        let node = self.add(node);
        self.change_dir(dir, DirEffect::Link(name, node));
        Ok(node)
    }

    pub(super) fn reflink(&mut self, from: DescriptionId, to: DescriptionId) -> io::Result<()> {
        let node = self.writable(to)?;
        if !self.reflinks {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let bytes = self.file(self.descriptions[&from].node)?.cached().to_vec();
        let number = self.next_change();
        let write = Written { offset: 0, bytes: &bytes, direct: true, number };
        self.file_mut(node).write(write);
        Ok(())
    }

    pub(super) fn read(
        &self,
        description: DescriptionId,
        offset: u64,
        len: usize,
    ) -> io::Result<Vec<u8>> {
        let description = &self.descriptions[&description];
        let file = self.file(description.node)?;
        let direct;
        let bytes = if description.direct {
            direct = file.direct();
            &direct[..]
        } else {
            file.cached()
        };
        let start = bytes.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let end = bytes.len().min(start.saturating_add(len));
        Ok(bytes[start..end].to_vec())
    }

    pub(super) fn allocate(
        &mut self,
        description: DescriptionId,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        let node = self.writable(description)?;
        if len == 0 {
            return Err(os_error(Errno::EINVAL));
        }
        let end = self.reserve(node, offset, len)?;
        let number = self.next_change();
        let file = self.file_mut(node);
        if end > file.cached().len() {
            file.set_len(end, number);
        }
        Ok(())
    }

    pub(super) fn zero_range(
        &mut self,
        description: DescriptionId,
        offset: u64,
        len: u64,
        zeroing: Zeroing,
    ) -> io::Result<()> {
        let node = self.writable(description)?;
        if zeroing == Zeroing::Written && !self.zeroes_ranges {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if len == 0 {
            return Err(os_error(Errno::EINVAL));
        }
        self.reserve(node, offset, len)?;
        let number = self.next_change();
        let bytes = &vec![0; to_usize(len)];
        let write = Written { offset: to_usize(offset), bytes, direct: true, number };
        self.file_mut(node).write(write);
        Ok(())
    }

    pub(super) fn set_direct(
        &mut self,
        description: DescriptionId,
        direct: bool,
    ) -> io::Result<()> {
        if direct {
            self.check_direct()?;
        }
        self.description_mut(description).direct = direct;
        Ok(())
    }

    pub(super) fn truncate(&mut self, description: DescriptionId, len: u64) -> io::Result<()> {
        let node = self.writable(description)?;
        if len > FILE_BYTES_MAX {
            return Err(os_error(Errno::EFBIG));
        }
        let number = self.next_change();
        let file = self.file_mut(node);
        file.allocated = file.allocated.min(len);
        file.set_len(to_usize(len), number);
        Ok(())
    }

    pub(super) fn random_id(&mut self) -> [u8; 16] {
        let halves = [self.rng.next(), self.rng.next()].map(u64::to_le_bytes);
        std::array::from_fn(|at| halves[at / 8][at % 8])
    }

    pub(super) fn try_lock(&mut self, description: DescriptionId) -> io::Result<bool> {
        let node = self.writable(description)?;
        let holder = *self.file_mut(node).lock.get_or_insert(description);
        Ok(holder == description)
    }

    pub(super) fn len(&self, description: DescriptionId) -> io::Result<u64> {
        let file = self.file(self.descriptions[&description].node)?;
        Ok(file.cached().len() as u64)
    }

    /// Refuses what direct I/O cannot write.
    pub(super) fn check_aligned(
        &self,
        description: DescriptionId,
        offset: u64,
        len: usize,
    ) -> io::Result<()> {
        let align = self.geometry.direct_align.filter(|_| self.descriptions[&description].direct);
        match align {
            Some(align) if !(offset | len as u64).is_multiple_of(align) => {
                Err(os_error(Errno::EINVAL))
            }
            _ => Ok(()),
        }
    }

    /// The file of a description that may write.
    pub(super) fn writable(&self, description: DescriptionId) -> io::Result<NodeId> {
        let description = &self.descriptions[&description];
        match description.access {
            Access::Write | Access::Create => Ok(description.node),
            Access::Read | Access::ReadDirect => Err(os_error(Errno::EBADF)),
        }
    }

    /// Takes space for a part of a file; gives the part's end.
    fn reserve(&mut self, node: NodeId, offset: u64, len: u64) -> io::Result<usize> {
        let end = offset
            .checked_add(len)
            .filter(|&end| end <= FILE_BYTES_MAX)
            .ok_or_else(|| os_error(Errno::EFBIG))?;
        let wanted = end.saturating_sub(self.file(node)?.allocated);
        if let Some(limit) = self.space_limit
            && wanted > 0
            && self.used_bytes() + wanted > limit
        {
            return Err(os_error(Errno::ENOSPC));
        }
        let file = self.file_mut(node);
        file.allocated = file.allocated.max(end);
        Ok(to_usize(end))
    }

    /// The space of all files that have a name or are open.
    fn used_bytes(&self) -> u64 {
        let live = self.reachable(|dir| dir.names().values().copied().collect());
        let files = live.iter().filter_map(|node| self.file(*node).ok());
        files.map(|file| file.allocated).sum()
    }

    pub(super) fn changes_made(&self) -> u64 {
        self.changes_made
    }

    /// The directory of a `SyncDir`.
    pub(super) fn dir_of(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.node_of(path)?;
        self.dir(node)?;
        Ok(node)
    }

    /// Forgets nodes that nothing can name any more, not even after a crash.
    fn collect(&mut self) {
        let live = self.reachable(|dir| dir.nodes().collect());
        self.nodes.retain(|node, _| live.contains(node));
    }

    /// The nodes in the tree, going from directories where `next` says, and those that are open or being synced.
    fn reachable(&self, next: impl Fn(&DirNode) -> Vec<NodeId>) -> BTreeSet<NodeId> {
        let synced = self.flights.values().filter_map(|flight| match flight {
            Flight::SyncDir { dir, .. } => Some(*dir),
            Flight::Write { .. } | Flight::Sync { .. } => None,
        });
        let open = self.descriptions.values().map(|d| d.node);
        let mut ahead: Vec<NodeId> = open.chain(synced).chain([ROOT]).collect();
        let mut live = BTreeSet::new();
        while let Some(node) = ahead.pop() {
            if live.insert(node)
                && let Node::Dir(dir) = &self.nodes[&node]
            {
                ahead.extend(next(dir));
            }
        }
        live
    }

    // For tests, beside all operations.

    pub(super) fn make_dir_durably(&mut self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for name in names(path)? {
            let next = match self.dir(node)?.get(&name) {
                Some(next) => next,
                None => self.add(Node::Dir(DirNode::default())),
            };
            self.dir_mut(node).link_durably(name, next);
            node = next;
        }
        self.dir(node)?;
        Ok(node)
    }

    pub(super) fn write_durably(&mut self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let dir = self.make_dir_durably(path.parent().unwrap_or(Path::new("/")))?;
        let (_, name) = self.place_of(path)?;
        let node = match self.dir(dir)?.get(&name) {
            Some(node) => node,
            None => self.add(Node::File(FileNode::default())),
        };
        self.file(node)?;
        self.file_mut(node).replace(bytes);
        self.dir_mut(dir).link_durably(name, node);
        Ok(())
    }

    pub(super) fn file_at(&self, path: &Path) -> io::Result<&FileNode> {
        self.file(self.node_of(path)?)
    }

    pub(super) fn file_at_mut(&mut self, path: &Path) -> io::Result<&mut FileNode> {
        let node = self.node_of(path)?;
        self.file(node)?;
        Ok(self.file_mut(node))
    }
}

/// The names on the way from the root. There is no working directory: a relative path starts at the root, too.
fn names(path: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_owned()),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(os_error(Errno::EINVAL)),
        }
    }
    Ok(names)
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("limited by FILE_BYTES_MAX")
}
