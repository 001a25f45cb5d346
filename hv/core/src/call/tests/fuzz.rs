//! Calls at random: whatever a guest puts into its registers and its memory, nothing panics and every call ends.

use super::*;
use proptest::prelude::*;
use pv_abi::{Call, ROWS};
use std::cell::RefCell;
use std::vec::Vec;

/// A word of a register or of memory: often one that means something.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..16,
        2 => Just(0x7ff0u64),
        2 => (0u64..64).prop_map(|shift| 1 << shift),
        1 => (0u64..64).prop_map(|shift| (1u64 << shift).wrapping_sub(1)),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
        2 => 0u64..0x4000,
    ]
}

/// Where a register points.
#[derive(Clone, Debug)]
enum Operand {
    Word(u64),
    Memory(Vec<u64>),
    Hole,
}

fn operand() -> impl Strategy<Value = Operand> {
    prop_oneof![
        3 => word().prop_map(Operand::Word),
        4 => prop::collection::vec(word(), 1..24).prop_map(Operand::Memory),
        1 => Just(Operand::Hole),
    ]
}

fn any_call() -> impl Strategy<Value = (u64, Vec<Operand>)> {
    let known = (0..ROWS.len(), prop::collection::vec(operand(), 5)).prop_map(|(index, mut operands)| {
        let row = Call::from_index(index).unwrap().row();
        if let Some(sub) = row.sub {
            operands[0] = Operand::Word(sub);
        }
        (row.number, operands)
    });
    let wild = (word(), prop::collection::vec(operand(), 5));
    prop_oneof![8 => known, 1 => wild]
}

fn play(guest: &Guest<'_>, number: u64, operands: &[Operand]) {
    guest.forget_lent();
    let mut words = [0; 5];
    for (word, operand) in words.iter_mut().zip(operands) {
        *word = match operand {
            Operand::Word(value) => *value,
            Operand::Memory(values) => guest.put(&values[..]).raw(),
            Operand::Hole => world::HOLE,
        };
    }
    // Whatever it returns: it returns, and changes no other register (the transport looks).
    let _ = guest.raw(number, words);
}

#[test]
fn nothing_a_guest_passes_stops_the_hypervisor() {
    let world = World::new();
    let names = ["dom0", "a", "b"];
    let guests = RefCell::new(names.map(|name| world.guest(name)));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&(0..names.len(), any_call()), |(index, (number, operands))| {
            let mut guests = guests.borrow_mut();
            if !guests[index].is_sound() {
                // It has ruined itself, or another has destroyed it: the next one is not it.
                world.destroy(&guests[index].domain);
                guests[index] = world.guest(names[index]);
            }
            play(&guests[index], number, &operands);
            Ok(())
        })
        .unwrap();
}
