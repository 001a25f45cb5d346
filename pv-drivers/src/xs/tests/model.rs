//! The store against a naive model.

use std::collections::BTreeMap;
use std::format;

use proptest::prelude::*;

use super::*;

/// Values by path; parents are there by themselves.
type Model = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    Read(String),
    List(String),
    Write(String, u8),
    Make(String),
    Remove(String),
    Begin,
    Commit,
    Abort,
}

#[derive(Clone, PartialEq, Debug)]
enum Answer {
    Value(Result<Vec<u8>, Errno>),
    Names(Result<Vec<String>, Errno>),
    Done(Result<(), Errno>),
}

fn add_parents(model: &mut Model, path: &str) {
    let mut at = path;
    while let Some(parent) = path::parent(at) {
        model.entry(parent.into()).or_default();
        at = parent;
    }
}

/// What the rules say.
fn expect(model: &mut Model, step: &Step) -> Answer {
    match step {
        Step::Read(path) => Answer::Value(model.get(path).cloned().ok_or(Errno::ENOENT)),
        Step::List(path) => Answer::Names(match model.contains_key(path) {
            false => Err(Errno::ENOENT),
            true => {
                let below = model.keys().filter(|key| path::depth_below(key, path) == Some(1));
                Ok(below.map(|key| path::names(key).last().unwrap().into()).collect())
            }
        }),
        Step::Write(path, value) => {
            add_parents(model, path);
            model.insert(path.clone(), std::vec![*value]);
            Answer::Done(Ok(()))
        }
        Step::Make(path) => {
            add_parents(model, path);
            model.entry(path.clone()).or_default();
            Answer::Done(Ok(()))
        }
        Step::Remove(path) => {
            let parent = path::parent(path).unwrap();
            if !model.contains_key(parent) {
                return Answer::Done(Err(Errno::ENOENT));
            }
            model.retain(|key, _| path::depth_below(key, path).is_none());
            Answer::Done(Ok(()))
        }
        Step::Begin | Step::Commit | Step::Abort => unreachable!(),
    }
}

fn run(store: &mut LocalStore, transaction: TransactionId, step: &Step) -> Answer {
    match step {
        Step::Read(path) => Answer::Value(store.read(transaction, path)),
        Step::List(path) => Answer::Names(store.list(transaction, path)),
        Step::Write(path, value) => Answer::Done(store.write(transaction, path, &[*value])),
        Step::Make(path) => Answer::Done(store.make(transaction, path)),
        Step::Remove(path) => Answer::Done(store.remove(transaction, path)),
        Step::Begin | Step::Commit | Step::Abort => unreachable!(),
    }
}

fn some_path() -> impl Strategy<Value = String> {
    prop::collection::vec(0..3u8, 1..4)
        .prop_map(|names| names.iter().map(|name| format!("/{}", char::from(b'a' + name))).collect())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        some_path().prop_map(Step::Read),
        some_path().prop_map(Step::List),
        (some_path(), any::<u8>()).prop_map(|(path, value)| Step::Write(path, value)),
        some_path().prop_map(Step::Make),
        some_path().prop_map(Step::Remove),
        Just(Step::Begin),
        Just(Step::Commit),
        Just(Step::Abort),
    ]
}

/// A transaction, its view, what was asked and answered in it, and how many changes there had been at its start.
type Open = (TransactionId, Model, Vec<(Step, Answer)>, u64);

struct Client {
    store: LocalStore,
    open: Option<Open>,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Three clients, any interleaving: every answer is the model's, and every transaction that is accepted could have
    /// run at the moment of its commit, alone, with the same answers.
    #[test]
    fn transactions_are_serial(steps in prop::collection::vec((0..3usize, step()), 1..120)) {
        let server = server();
        let mut model = Model::new();
        model.insert("/".into(), Vec::new());
        let mut clients: Vec<Client> =
            (0..3).map(|_| Client { store: dom0(&server), open: None }).collect();
        let mut changes = 0u64;
        for (who, step) in steps {
            let client = &mut clients[who];
            match (&step, &mut client.open) {
                (Step::Begin, None) => {
                    let id = client.store.begin().unwrap();
                    client.open = Some((id, model.clone(), Vec::new(), changes));
                }
                (Step::Begin, Some(_)) | (Step::Commit | Step::Abort, None) => {}
                (Step::Abort, Some((id, ..))) => {
                    client.store.abort(*id).unwrap();
                    client.open = None;
                }
                (Step::Commit, Some(_)) => {
                    let (id, _, log, started) = client.open.take().unwrap();
                    match client.store.commit(id) {
                        Ok(()) => {
                            for (step, answer) in log {
                                prop_assert_eq!(expect(&mut model, &step), answer, "{:?}", step);
                            }
                            changes += 1;
                        }
                        Err(error) => {
                            prop_assert_eq!(error, Errno::EAGAIN);
                            prop_assert!(changes > started, "refused though nobody interfered");
                        }
                    }
                }
                (_, Some((id, view, log, _))) => {
                    let answer = run(&mut client.store, *id, &step);
                    prop_assert_eq!(&expect(view, &step), &answer, "{:?}", step);
                    log.push((step.clone(), answer));
                }
                (_, None) => {
                    let answer = run(&mut client.store, NOW, &step);
                    prop_assert_eq!(expect(&mut model, &step), answer, "{:?}", step);
                    changes += u64::from(!matches!(step, Step::Read(_) | Step::List(_)));
                }
            }
        }
        for (path, value) in &model {
            prop_assert_eq!(&clients[0].store.read(NOW, path).unwrap(), value);
        }
    }

    /// Any message from a guest gets one answer and changes nothing outside its own directory.
    #[test]
    fn any_message_is_survived(
        messages in prop::collection::vec((0..30u32, 0..4u32, prop::collection::vec(any::<u8>(), 0..60)), 1..60),
    ) {
        use pv_abi::io::xs_wire::Header;
        let server = server();
        let mut store = dom0(&server);
        store.write(NOW, "/private", b"1").unwrap();
        let _home = guest(&server, 1);
        let id = server.lock().connect(DomainId::new(1), false);
        for (kind, tx_id, payload) in messages {
            // Paths and zero bytes are likelier than chance makes them.
            let payload: Vec<u8> = payload.iter().map(|byte| b"/ab\0T0/ab\0@"[*byte as usize % 11]).collect();
            let header = Header { kind, req_id: 5, tx_id, len: payload.len() as u32 };
            server.lock().handle(id, header, &payload);
            let mut replies = 0;
            while let Some(message) = server.lock().next_message(id) {
                prop_assert!(message.len() >= 16 && message.len() <= 16 + 4096);
                replies += u32::from(message[0] != 15);
            }
            prop_assert_eq!(replies, 1);
        }
        prop_assert_eq!(store.read(NOW, "/private").unwrap(), b"1");
        prop_assert_eq!(store.list(NOW, "/").unwrap(), ["local", "private"]);
    }
}
