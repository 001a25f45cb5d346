//! XenStore: reading, writing, transactions, watches and permissions of an ordinary domain.
#![no_std]
#![no_main]

use core::time::Duration;

use pv_abi::Errno;
use pv_drivers::xs::{Store, TransactionId};
use pv_guest_kernel::conf::{Outcome, Test, skip};
use pv_guest_kernel::task;
use pv_guest_kernel::xen::store::{self, Watch};

pv_guest_kernel::conformance!(run);

const NONE: TransactionId = TransactionId::NONE;

fn rules(t: &mut Test, s: &mut dyn Store) {
    t.check("our own number", s.read(NONE, "domid").is_ok_and(|v| !v.is_empty()));
    t.equal("write", s.write(NONE, "data/a", b"1"), Ok(()));
    t.equal("read back", s.read(NONE, "data/a"), Ok(b"1".to_vec()));
    t.equal("write below", s.write(NONE, "data/b/c", b"2"), Ok(()));
    t.check(
        "list",
        s.list(NONE, "data").is_ok_and(|l| l.iter().any(|n| n == "a") && l.iter().any(|n| n == "b")),
    );
    t.equal("read what is not there", s.read(NONE, "data/none"), Err(Errno::ENOENT));
    t.equal("an empty value", s.write(NONE, "data/empty", b""), Ok(()));
    t.equal("reads as empty", s.read(NONE, "data/empty"), Ok(b"".to_vec()));
    for path in ["data//x", "data/x/", "/", "data/\u{fc}", "data/a b"] {
        t.check("a bad path is refused", s.write(NONE, path, b"x").is_err());
    }
    let long = "x".repeat(3000);
    t.check("a long path is refused", s.write(NONE, &long, b"x").is_err());
    t.check("a long value is refused", s.write(NONE, "data/long", &[b'x'; 5000]).is_err());
    t.check("others' nodes are not ours to write", s.write(NONE, "/local/domain/0/x", b"x").is_err());
    t.check("nor to read", s.read(NONE, "/local/domain/0/x").is_err());
    t.check("our name is not ours to write", s.write(NONE, "name", b"other").is_err());
    t.equal("remove", s.remove(NONE, "data/b"), Ok(()));
    t.equal("all below is gone", s.read(NONE, "data/b/c"), Err(Errno::ENOENT));

    // Transactions.
    match s.begin() {
        Ok(tx) => {
            t.equal("write in a transaction", s.write(tx, "data/t", b"in"), Ok(()));
            t.equal("seen inside", s.read(tx, "data/t"), Ok(b"in".to_vec()));
            t.equal("not seen outside", s.read(NONE, "data/t"), Err(Errno::ENOENT));
            t.equal("commit", s.commit(tx), Ok(()));
            t.equal("seen outside", s.read(NONE, "data/t"), Ok(b"in".to_vec()));
            t.check("over is over", s.commit(tx).is_err());
        }
        Err(e) => t.equal("begin", Err(e), Ok(())),
    }
    if let Ok(tx) = s.begin() {
        t.equal("write", s.write(tx, "data/u", b"in"), Ok(()));
        t.equal("abort", s.abort(tx), Ok(()));
        t.equal("nothing happened", s.read(NONE, "data/u"), Err(Errno::ENOENT));
    }
    if let Ok(tx) = s.begin() {
        t.equal("read", s.read(tx, "data/a"), Ok(b"1".to_vec()));
        t.equal("somebody interferes", s.write(NONE, "data/a", b"3"), Ok(()));
        let _ = s.write(tx, "data/a", b"4");
        t.equal("commit", s.commit(tx), Err(Errno::EAGAIN));
        t.equal("theirs stays", s.read(NONE, "data/a"), Ok(b"3".to_vec()));
    }
    t.check("no such transaction", s.read(TransactionId::new(12345), "data/a").is_err());
}

async fn run(t: &mut Test) -> Outcome {
    if store::with(|s| rules(t, s)).is_none() {
        return Err(skip("this domain has no XenStore"));
    }
    let mut watch = match Watch::new("data/w") {
        Ok(watch) => watch,
        Err(e) => {
            t.equal("watch", Err(e), Ok(()));
            return Ok(());
        }
    };
    let patience = Duration::from_secs(20);
    t.check("the first event comes at once", task::timeout(patience, watch.changed()).await.is_ok());
    t.equal("write", store::write("data/w/x", "1"), Ok(()));
    t.check("a change below is told", task::timeout(patience, watch.changed()).await.is_ok());
    t.equal("write elsewhere", store::write("data/v", "1"), Ok(()));
    t.check(
        "a change elsewhere is not",
        task::timeout(Duration::from_millis(200), watch.changed()).await.is_err(),
    );
    Ok(())
}
