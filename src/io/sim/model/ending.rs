//! The end of the process, or of the machine, and what is left then.

use super::{DescriptionId, Flight, Model, Node};
use crate::io::Persist;
use crate::io::sim::fate::{Everything, Fate, Nothing};
use crate::io::sim::faults::OpKind;
use crate::io::sim::node::{Crash, PowerLoss};
use crate::io::sim::rng::Rng;

impl Model {
    /// The process is gone; what it gave to the kernel is not, and its locks are held until that has ended.
    pub(in crate::io::sim) fn kill(&mut self) {
        self.life += 1;
        self.outcomes.clear();
        self.abandoned = self.flights.keys().map(|(_, id)| *id).collect();
        let descriptions: Vec<DescriptionId> = self.descriptions.keys().copied().collect();
        for description in descriptions {
            self.close(description);
        }
        self.collect();
    }

    pub(in crate::io::sim) fn in_flight(&self) -> Vec<OpKind> {
        self.flights.values().map(Flight::op).collect()
    }

    pub(in crate::io::sim) fn power_loss(&mut self, crash: Crash) -> PowerLoss {
        let mut loss = PowerLoss::default();
        match crash {
            Crash::LoseUnsynced => self.crash_with(&mut Nothing, &mut loss),
            Crash::KeepUnsynced => {
                self.land_writes();
                self.crash_with(&mut Everything, &mut loss);
            }
            Crash::Random => {
                let mut rng = Rng::new(self.rng.next());
                self.land_writes();
                self.crash_with(&mut rng, &mut loss);
            }
        }
        loss
    }

    fn crash_with(&mut self, fate: &mut impl Fate, loss: &mut PowerLoss) {
        self.end_life();
        self.crash_nodes(fate, loss);
    }

    fn crash_nodes(&mut self, fate: &mut impl Fate, loss: &mut PowerLoss) {
        for node in self.nodes.values_mut() {
            match node {
                Node::File(file) => file.crash(fate, loss),
                Node::Dir(dir) => dir.crash(fate, loss),
            }
        }
        self.collect();
    }

    /// Makes the writes in flight changes, for fate to decide about. The syncs in flight did not happen.
    pub(in crate::io::sim) fn land_writes(&mut self) {
        for (_, flight) in std::mem::take(&mut self.flights) {
            if let Some(description) = flight.description() {
                self.description_mut(description).flights -= 1;
            }
            if let Flight::Write { mut write, buf } = flight {
                // Nobody was told that it is durable. (A write that fails leaves what it leaves.)
                if write.error.is_none() {
                    write.persist = Persist::Later;
                }
                self.end(Flight::Write { write, buf });
            }
        }
    }

    fn end_life(&mut self) {
        self.life += 1;
        self.flights.clear();
        self.outcomes.clear();
        self.abandoned.clear();
        self.descriptions.clear();
    }

    /// The same disk on a machine of its own, with all that was not synced.
    pub(in crate::io::sim) fn clone_disk(&self) -> Model {
        let mut model = Model::new(0);
        model.nodes.clone_from(&self.nodes);
        model.nodes_made = self.nodes_made;
        model.changes_made = self.changes_made;
        model.space_limit = self.space_limit;
        model.read_only = self.read_only;
        model.geometry = self.geometry;
        model.zeroes_ranges = self.zeroes_ranges;
        model.reflinks = self.reflinks;
        model
    }

    /// What this machine has on its disk after a power loss that went as `fate` says, on a machine of its own.
    pub(in crate::io::sim) fn after_power_loss(
        &self,
        fate: &mut impl Fate,
        loss: &mut PowerLoss,
    ) -> Model {
        let mut model = self.clone_disk();
        model.crash_nodes(fate, loss);
        model
    }
}
