//! Bindings of three domains against a naive model.

use super::*;
use proptest::prelude::*;
use pv_abi::ids::{Pirq, Virq};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Op {
    Alloc(u16, u16),
    Connect(u16, u16, u32),
    Virq(u16, u32, u32),
    Pirq(u16, u32),
    Ipi(u16, u32),
    Close(u16, u32),
    Send(u16, u32),
    BindVcpu(u16, u32, u32),
    Reset(u16),
}

fn op() -> impl Strategy<Value = Op> {
    let (dom, port, vcpu) = (1..4u16, 0..12u32, 0..3u32);
    prop_oneof![
        4 => (dom.clone(), dom.clone()).prop_map(|(a, b)| Op::Alloc(a, b)),
        6 => (dom.clone(), dom.clone(), port.clone()).prop_map(|(a, b, p)| Op::Connect(a, b, p)),
        1 => (dom.clone(), 0..26u32, vcpu.clone()).prop_map(|(a, q, c)| Op::Virq(a, q, c)),
        1 => (dom.clone(), 0..4u32).prop_map(|(a, q)| Op::Pirq(a, q)),
        1 => (dom.clone(), vcpu.clone()).prop_map(|(a, c)| Op::Ipi(a, c)),
        5 => (dom.clone(), port.clone()).prop_map(|(a, p)| Op::Close(a, p)),
        3 => (dom.clone(), port.clone()).prop_map(|(a, p)| Op::Send(a, p)),
        1 => (dom.clone(), port, vcpu).prop_map(|(a, p, c)| Op::BindVcpu(a, p, c)),
        1 => dom.prop_map(Op::Reset),
    ]
}

#[derive(Default)]
struct Model(BTreeMap<(u16, u32), (ChannelState, u32)>);

const VCPUS: u32 = 2;

impl Model {
    fn state(&self, domain: u16, port: u32) -> Option<ChannelState> {
        self.0.get(&(domain, port)).map(|entry| entry.0)
    }

    fn lowest(&self, domain: u16) -> u32 {
        (1..).find(|port| !self.0.contains_key(&(domain, *port))).unwrap()
    }

    fn add(&mut self, domain: u16, state: ChannelState, vcpu: u32) -> Option<u32> {
        let port = self.lowest(domain);
        self.0.insert((domain, port), (state, vcpu));
        Some(port)
    }

    fn has(&self, domain: u16, state: ChannelState) -> bool {
        self.0.iter().any(|((d, _), (s, _))| *d == domain && *s == state)
    }

    fn close(&mut self, domain: u16, port: u32) -> bool {
        let Some((state, _)) = self.0.remove(&(domain, port)) else { return false };
        if let ChannelState::Interdomain { remote, port: other } = state
            && let Some(entry) = self.0.get_mut(&(remote.raw(), other.raw()))
        {
            entry.0 = ChannelState::Unbound { remote: d(domain) };
        }
        true
    }
}

proptest! {
    #[test]
    fn tables_do_what_the_model_does(ops in prop::collection::vec(op(), 1..100)) {
        let world = World::new(3, VCPUS as usize);
        let memory = &world.memory;
        let mut model = Model::default();
        for op in ops {
            match op {
                Op::Alloc(a, b) => {
                    let port = world.table(a).alloc_unbound(memory, d(b)).ok().map(Port::raw);
                    prop_assert_eq!(port, model.add(a, ChannelState::Unbound { remote: d(b) }, 0));
                }
                Op::Connect(a, b, target) => {
                    let got = world.table(a).bind_interdomain(memory, world.table(b), p(target));
                    let expected = if model.state(b, target) == Some(ChannelState::Unbound { remote: d(a) }) {
                        let bound = ChannelState::Interdomain { remote: d(b), port: p(target) };
                        let port = model.add(a, bound, 0).unwrap();
                        model.0.get_mut(&(b, target)).unwrap().0 =
                            ChannelState::Interdomain { remote: d(a), port: p(port) };
                        Some(port)
                    } else {
                        None
                    };
                    prop_assert_eq!(got.ok().map(|(port, _)| port.raw()), expected);
                }
                Op::Virq(a, number, vcpu) => {
                    let virq = Virq::new(number);
                    let taken = model.0.iter().any(|((dom, _), (state, at))| {
                        *dom == a && *state == ChannelState::Virq(virq) && (*at == vcpu || !virq.is_per_vcpu())
                    });
                    let legal = number < Virq::COUNT
                        && (virq.is_per_vcpu() || vcpu == 0)
                        && vcpu < VCPUS
                        && !taken;
                    let got = world.table(a).bind_virq(memory, virq, v(vcpu)).ok().map(Port::raw);
                    let expected = if legal { model.add(a, ChannelState::Virq(virq), vcpu) } else { None };
                    prop_assert_eq!(got, expected);
                }
                Op::Pirq(a, number) => {
                    let state = ChannelState::Pirq(Pirq::new(number));
                    let expected = if model.has(a, state) { None } else { model.add(a, state, 0) };
                    let got = world.table(a).bind_pirq(memory, Pirq::new(number)).ok().map(Port::raw);
                    prop_assert_eq!(got, expected);
                }
                Op::Ipi(a, vcpu) => {
                    let expected = if vcpu < VCPUS { model.add(a, ChannelState::Ipi, vcpu) } else { None };
                    prop_assert_eq!(world.table(a).bind_ipi(memory, v(vcpu)).ok().map(Port::raw), expected);
                }
                Op::Close(a, port) => {
                    let got = world.table(a).close(memory, &world, p(port)).is_ok();
                    prop_assert_eq!(got, model.close(a, port));
                }
                Op::Send(a, port) => {
                    let got = world.table(a).send(memory, p(port));
                    match model.state(a, port) {
                        Some(ChannelState::Interdomain { remote, port: other }) => {
                            if remote == d(a) {
                                prop_assert!(matches!(got, Ok(Sent::Here(_))));
                            } else {
                                prop_assert_eq!(got, Ok(Sent::There { domain: remote, port: other }));
                                let _ = world.tables[&remote].deliver(memory, other, d(a));
                            }
                            prop_assert!(world.tables[&remote].is_pending(memory, other));
                        }
                        Some(ChannelState::Ipi) => prop_assert!(matches!(got, Ok(Sent::Here(_)))),
                        Some(ChannelState::Unbound { .. }) => prop_assert_eq!(got, Ok(Sent::Nowhere)),
                        _ => prop_assert!(got.is_err()),
                    }
                }
                Op::BindVcpu(a, port, vcpu) => {
                    let movable = match model.state(a, port) {
                        Some(ChannelState::Virq(virq)) => !virq.is_per_vcpu(),
                        Some(ChannelState::Ipi) | None => false,
                        Some(_) => true,
                    };
                    let got = world.table(a).bind_vcpu(p(port), v(vcpu)).is_ok();
                    prop_assert_eq!(got, movable && vcpu < VCPUS);
                    if got {
                        model.0.get_mut(&(a, port)).unwrap().1 = vcpu;
                    }
                }
                Op::Reset(a) => {
                    let _ = world.reset(a);
                    for port in 1..200 {
                        model.close(a, port);
                    }
                }
            }
            for (id, table) in &world.tables {
                let got: Vec<_> =
                    table.bound().into_iter().map(|(port, s)| (port.raw(), s.state, s.vcpu.raw())).collect();
                let expected: Vec<_> = model
                    .0
                    .iter()
                    .filter(|((dom, _), _)| d(*dom) == *id)
                    .map(|((_, port), (state, vcpu))| (*port, *state, *vcpu))
                    .collect();
                prop_assert_eq!(got, expected);
            }
        }
    }
}
