//! Who gets how much.

use super::*;
use proptest::prelude::*;

/// `part` of `whole` in percent is `percent`, to within `tolerance` percent of itself.
fn close(part: u64, whole: u64, percent: f64, tolerance: f64) {
    let share = part as f64 * 100.0 / whole as f64;
    assert!((share - percent).abs() <= percent * tolerance / 100.0, "{share:.2} % instead of {percent:.2} %");
}

#[test]
fn weights_two_to_one_on_one_cpu() {
    let mut machine = Machine::new(1);
    let (heavy, light) = (Arc::new(Group::new(512, 0)), Arc::new(Group::new(256, 0)));
    let a = machine.add(&heavy, CpuMask::ALL, SPIN);
    let b = machine.add(&light, CpuMask::ALL, SPIN);
    machine.run(3_000 * MS);
    machine.check();
    close(machine.ran(a), machine.now, 200.0 / 3.0, 1.0);
    close(machine.ran(b), machine.now, 100.0 / 3.0, 1.0);
    assert!(machine.switches < 1000, "{} switches in 3 s", machine.switches);
}

#[test]
fn a_domains_weight_is_shared_by_its_vcpus() {
    let mut machine = Machine::new(1);
    let (two, one) = (Arc::new(Group::new(256, 0)), Arc::new(Group::new(256, 0)));
    machine.add(&two, CpuMask::ALL, SPIN);
    machine.add(&two, CpuMask::ALL, SPIN);
    let alone = machine.add(&one, CpuMask::ALL, SPIN);
    machine.run(3_000 * MS);
    machine.check();
    close(machine.ran(alone), machine.now, 50.0, 2.0);
}

#[test]
fn weights_two_to_one_on_two_cpus_with_two_vcpus_each() {
    let mut machine = Machine::new(2);
    let (heavy, light) = (Arc::new(Group::new(512, 0)), Arc::new(Group::new(256, 0)));
    let names: Vec<_> =
        [&heavy, &heavy, &light, &light].map(|group| machine.add(group, CpuMask::ALL, SPIN)).to_vec();
    machine.run(6_000 * MS);
    machine.check();
    close(machine.ran(names[0]) + machine.ran(names[1]), 2 * machine.now, 200.0 / 3.0, 3.0);
}

#[test]
fn three_spinners_on_two_cpus_take_turns() {
    let mut machine = Machine::new(2);
    let names: Vec<_> =
        (0..3).map(|_| machine.add(&Arc::new(Group::new(256, 0)), CpuMask::ALL, SPIN)).collect();
    machine.run(6_000 * MS);
    machine.check();
    for name in names {
        close(machine.ran(name), 2 * machine.now, 100.0 / 3.0, 10.0);
    }
}

#[test]
fn caps_hold_with_an_idle_cpu_beside() {
    for percent in [5, 25, 50, 90] {
        let mut machine = Machine::new(2);
        let group = Arc::new(Group::new(256, percent));
        let capped = machine.add(&group, CpuMask::ALL, SPIN);
        machine.run(3_000 * MS);
        machine.check();
        close(machine.ran(capped), machine.now, f64::from(percent), 2.0);
    }
}

#[test]
fn a_cap_is_shared_by_a_domains_vcpus() {
    let mut machine = Machine::new(4);
    let group = Arc::new(Group::new(256, 150));
    for _ in 0..4 {
        machine.add(&group, CpuMask::ALL, SPIN);
    }
    machine.run(3_000 * MS);
    machine.check();
    let sum: u64 = (0..4).map(|name| machine.ran(name)).sum();
    close(sum, machine.now, 150.0, 3.0);
}

#[test]
fn a_capped_domain_leaves_the_rest_to_others() {
    let mut machine = Machine::new(1);
    let capped = machine.add(&Arc::new(Group::new(1024, 20)), CpuMask::ALL, SPIN);
    let free = machine.add(&Arc::new(Group::new(256, 0)), CpuMask::ALL, SPIN);
    machine.run(3_000 * MS);
    machine.check();
    close(machine.ran(capped), machine.now, 20.0, 2.0);
    close(machine.ran(free), machine.now, 80.0, 2.0);
}

#[test]
fn one_that_wakes_preempts_a_spinner_within_its_grace() {
    let mut machine = Machine::new(1);
    machine.add(&Arc::new(Group::new(256, 0)), CpuMask::ALL, SPIN);
    let habit = Habit { work: MS / 10, sleep: 20 * MS };
    let waker = machine.add(&Arc::new(Group::new(256, 0)), CpuMask::ALL, habit);
    machine.run(2_000 * MS);
    machine.check();
    assert!(machine.latencies.len() > 90, "it woke {} times", machine.latencies.len());
    let worst = machine.latencies.iter().map(|(_, latency)| *latency).max().unwrap();
    assert!(worst <= MS / 10, "it waited {worst} ticks");
    close(machine.ran(waker), machine.now, 0.5, 5.0);
}

#[test]
fn sleepers_do_not_save_up() {
    let mut machine = Machine::new(1);
    let spinner = machine.add(&Arc::new(Group::new(256, 0)), CpuMask::ALL, SPIN);
    // Sleeps for a second, then wants the CPU for a second.
    let habit = Habit { work: 1_000 * MS, sleep: 1_000 * MS };
    machine.add(&Arc::new(Group::new(256, 0)), CpuMask::ALL, habit);
    machine.run(500 * MS);
    // Since it began it had half of the time, and later it never gets more.
    close(machine.ran(spinner), machine.now, 50.0, 3.0);
    machine.run(2_000 * MS);
    let before = machine.ran(spinner);
    machine.run(3_500 * MS);
    let share = machine.ran(spinner) - before;
    assert!(share >= 720 * MS, "the spinner got {} ms of 1500", share / MS);
}

#[test]
fn who_yields_does_not_save_up() {
    let mut machine = Machine::new(1);
    let spinner = machine.add(&Arc::new(Group::new(256, 0)), CpuMask::ALL, SPIN);
    let habit = Habit { work: MS / 10, sleep: 0 };
    let yielder = machine.add(&Arc::new(Group::new(512, 0)), CpuMask::ALL, habit);
    machine.run(1_000 * MS);
    machine.check();
    assert!(machine.ran(yielder) < 100 * MS, "it ran {} ms", machine.ran(yielder) / MS);
    // What it has given away it does not get back.
    (machine.habits[yielder], machine.left[yielder]) = (SPIN, u64::MAX);
    let before = machine.ran(spinner);
    machine.run(1_100 * MS);
    let share = machine.ran(spinner) - before;
    assert!(share >= 25 * MS, "the spinner got {} ms of 100", share / MS);
}

#[test]
fn pinned_vcpus_stay_and_others_make_room() {
    let mut machine = Machine::new(2);
    let only_0 = CpuMask::only(cpu(0));
    let pinned = machine.add(&Arc::new(Group::new(256, 0)), only_0, SPIN);
    let free = machine.add(&Arc::new(Group::new(256, 0)), CpuMask::ALL, SPIN);
    machine.run(1_000 * MS);
    machine.check();
    close(machine.ran(pinned), machine.now, 100.0, 3.0);
    close(machine.ran(free), machine.now, 100.0, 3.0);
    let kick = machine.scheduler.set_affinity(&machine.keys[free].clone(), only_0);
    machine.kick(kick);
    let before = machine.ran(free);
    machine.run(2_000 * MS);
    close(machine.ran(free) - before, 1_000 * MS, 50.0, 3.0);
}

#[test]
fn one_that_must_make_room_goes_to_an_idle_cpu_at_once() {
    let mut machine = Machine::new(2);
    let free = machine.add(&Arc::new(Group::new(256, 0)), CpuMask::ALL, SPIN);
    let habit = Habit { work: 50 * MS, sleep: 50 * MS };
    machine.run(10 * MS);
    let group = Arc::new(Group::new(256, 0));
    let here = machine.keys[free].entity.running_on().unwrap();
    machine.add(&group, CpuMask::only(here), habit);
    machine.run(1_000 * MS);
    machine.check();
    close(machine.ran(free), machine.now, 100.0, 0.5);
}

#[test]
fn an_idle_cpu_takes_from_a_busy_one() {
    let mut machine = Machine::new(4);
    let names: Vec<_> =
        (0..4).map(|_| machine.add(&Arc::new(Group::new(256, 0)), CpuMask::only(cpu(0)), SPIN)).collect();
    machine.run(100 * MS);
    for name in &names {
        let kick = machine.scheduler.set_affinity(&machine.keys[*name].clone(), CpuMask::ALL);
        machine.kick(kick);
    }
    // An idle CPU looks when something happens to it, as at its next timer or kick.
    for index in 0..4 {
        machine.kick(Some(cpu(index)));
    }
    machine.run(1_100 * MS);
    machine.check();
    let sum: u64 = names.iter().map(|name| machine.ran(*name)).sum();
    close(sum, 100 * MS + 4_000 * MS, 100.0, 2.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn no_cpu_idles_while_others_wait(
        cpus in 1..4u16,
        habits in prop::collection::vec((1..30u64, 0..30u64, 1..5u32), 1..8),
    ) {
        let mut machine = Machine::new(cpus);
        let mut wanted = 0;
        let spins = habits.iter().filter(|(_, sleep, _)| *sleep == 0).count();
        for (work, sleep, weight) in &habits {
            let habit = if *sleep == 0 { SPIN } else { Habit { work: work * MS, sleep: sleep * MS } };
            machine.add(&Arc::new(Group::new(weight * 128, 0)), CpuMask::ALL, habit);
            wanted += 1;
        }
        machine.run(500 * MS);
        machine.check();
        prop_assert!(wanted > 0);
        let sum: u64 = (0..habits.len()).map(|name| machine.ran(name)).sum();
        // With as many spinners as CPUs, no time is left.
        if spins >= usize::from(cpus) {
            prop_assert_eq!(sum, machine.now * u64::from(cpus));
        } else {
            prop_assert!(sum >= machine.now * spins as u64);
        }
        // Who wants to run does: nobody waits for longer than all others' slices.
        for (name, latency) in &machine.latencies {
            prop_assert!(*latency <= 30 * MS * habits.len() as u64, "{} waited {} ms", name, latency / MS);
        }
    }
}
