//! Room in the queue: how much is free, and who waits for it, first come first served.

use super::group::Room;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
pub(super) struct Rooms {
    free: Room,
    /// In the order in which they came.
    waiting: VecDeque<Waiter>,
    /// Those whose room was taken for them, until they have noticed.
    granted: Vec<u64>,
    /// Numbers given out.
    numbers: u64,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    room: Room,
    waker: Waker,
}

impl Rooms {
    pub(super) fn new(free: Room) -> Rooms {
        Rooms { free, waiting: VecDeque::new(), granted: Vec::new(), numbers: 0 }
    }

    /// Takes room if there is some and nobody waits for it.
    pub(super) fn take(&mut self, room: Room) -> bool {
        self.waiting.is_empty() && self.take_anyway(room)
    }

    fn take_anyway(&mut self, room: Room) -> bool {
        let fits = room.bytes <= self.free.bytes && room.records <= self.free.records;
        if fits {
            self.free.bytes -= room.bytes;
            self.free.records -= room.records;
        }
        fits
    }

    /// Gives room back. The wakers are those of the callers who have theirs now.
    pub(super) fn give_back(&mut self, room: Room) -> impl Iterator<Item = Waker> + use<> {
        self.free += room;
        self.grant()
    }

    /// Lets everyone pass who waits: there is nothing to wait for any more. What they take counts for nothing.
    pub(super) fn open(&mut self) -> impl Iterator<Item = Waker> + use<> {
        self.free = Room { bytes: usize::MAX / 2, records: usize::MAX / 2 };
        self.grant()
    }

    fn grant(&mut self) -> impl Iterator<Item = Waker> + use<> {
        let mut woken = Vec::new();
        while let Some(first) = self.waiting.front() {
            let room = first.room;
            if !self.take_anyway(room) {
                break;
            }
            let Waiter { number, waker, .. } = self.waiting.pop_front().expect("there is one");
            self.granted.push(number);
            woken.push(waker);
        }
        woken.into_iter()
    }
}

/// One who waits. He has to [`leave`](Waiting::leave), whatever comes of it.
pub(super) struct Waiting {
    room: Room,
    state: State,
}

enum State {
    New,
    InLine(u64),
    Done,
}

impl Waiting {
    pub(super) fn new(room: Room) -> Waiting {
        Waiting { room, state: State::New }
    }

    /// Ready when the room is his. The waker that he had in the line before is to be dropped outside of any lock.
    pub(super) fn poll(
        &mut self,
        rooms: &mut Rooms,
        context: &Context<'_>,
    ) -> (Poll<()>, Option<Waker>) {
        let mut replaced = None;
        match self.state {
            State::New if rooms.take(self.room) => self.state = State::Done,
            State::New => {
                rooms.numbers += 1;
                let waker = context.waker().clone();
                let number = rooms.numbers;
                rooms.waiting.push_back(Waiter { number, room: self.room, waker });
                self.state = State::InLine(number);
            }
            State::InLine(number) => {
                if let Some(at) = rooms.granted.iter().position(|&granted| granted == number) {
                    rooms.granted.swap_remove(at);
                    self.state = State::Done;
                } else if let Some(me) = rooms.waiting.iter_mut().find(|w| w.number == number)
                    && !me.waker.will_wake(context.waker())
                {
                    replaced = Some(std::mem::replace(&mut me.waker, context.waker().clone()));
                }
            }
            State::Done => {}
        }
        match self.state {
            State::Done => (Poll::Ready(()), replaced),
            State::New | State::InLine(_) => (Poll::Pending, replaced),
        }
    }

    /// He goes: what was granted and not used, and his place in the line, are for those behind him. Gives the waker that
    /// he had in the line, which is to be dropped outside of any lock, and those of whom his going lets pass.
    pub(super) fn leave(
        &mut self,
        rooms: &mut Rooms,
    ) -> (Option<Waker>, impl Iterator<Item = Waker> + use<>) {
        let mut own = None;
        if let State::InLine(number) = self.state {
            self.state = State::Done;
            let place = rooms.waiting.iter().position(|waiter| waiter.number == number);
            own = place.and_then(|at| rooms.waiting.remove(at)).map(|waiter| waiter.waker);
            if let Some(at) = rooms.granted.iter().position(|&granted| granted == number) {
                rooms.granted.swap_remove(at);
                rooms.free += self.room;
            }
        }
        (own, rooms.grant())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Room = Room { bytes: 10, records: 1 };

    fn poll(waiting: &mut Waiting, rooms: &mut Rooms) -> bool {
        waiting.poll(rooms, &Context::from_waker(Waker::noop())).0.is_ready()
    }

    #[test]
    fn first_come_first_served() {
        let mut rooms = Rooms::new(Room { bytes: 20, records: 9 });
        assert!(rooms.take(ONE));
        let mut large = Waiting::new(Room { bytes: 20, records: 1 });
        let mut small = Waiting::new(ONE);
        assert!(!poll(&mut large, &mut rooms));
        assert!(!rooms.take(ONE), "nobody overtakes the large one");
        assert!(!poll(&mut small, &mut rooms));
        assert_eq!(rooms.give_back(ONE).count(), 1);
        assert!(poll(&mut large, &mut rooms));
        assert!(!poll(&mut small, &mut rooms));
        assert_eq!(rooms.give_back(Room { bytes: 20, records: 1 }).count(), 1);
        assert!(poll(&mut small, &mut rooms));
    }

    #[test]
    fn who_goes_lets_the_others_pass() {
        let mut rooms = Rooms::new(ONE);
        assert!(rooms.take(ONE));
        let mut first = Waiting::new(Room { bytes: 10, records: 1 });
        let mut second = Waiting::new(ONE);
        let mut third = Waiting::new(ONE);
        assert!(!poll(&mut first, &mut rooms));
        assert!(!poll(&mut second, &mut rooms));
        assert!(!poll(&mut third, &mut rooms));
        assert_eq!(first.leave(&mut rooms).1.count(), 0);
        assert_eq!(rooms.give_back(ONE).count(), 1);
        assert_eq!(second.leave(&mut rooms).1.count(), 1, "his room is the third's");
        assert!(poll(&mut third, &mut rooms));
        assert_eq!(third.leave(&mut rooms).1.count(), 0);
        assert_eq!(rooms.free, Room { bytes: 0, records: 0 });
    }

    #[test]
    fn records_count_too() {
        let mut rooms = Rooms::new(Room { bytes: 100, records: 2 });
        assert!(rooms.take(ONE) && rooms.take(ONE));
        assert!(!rooms.take(ONE));
    }
}
