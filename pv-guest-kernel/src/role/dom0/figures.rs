//! Answers guests that ask for the hypervisor's counters (`statistics=shared`); see [`crate::figures`].

use alloc::format;
use alloc::sync::Arc;
use core::future::poll_fn;

use pv_abi::DomainId;
use pv_drivers::xs::{Store, TransactionId, path};

use super::store::Service;
use crate::figures::{ANSWER, Counters, REQUEST};

const TOKEN: &str = "figures";

/// Serves for ever.
pub async fn serve(own: DomainId, store: Arc<Service>) {
    let mut client = store.client();
    if let Err(error) = client.watch("/local/domain", TOKEN) {
        return log::error!("counters are not shared: {error}");
    }
    let mut seen = 0;
    loop {
        let mut wrote = false;
        while let Some(event) = client.next_event() {
            wrote |= answer(&mut client, own, &event.path).is_some();
        }
        if wrote {
            store.touched();
        }
        poll_fn(|cx| store.changed().poll_changed(&mut seen, cx)).await;
    }
}

fn answer(client: &mut dyn Store, own: DomainId, changed: &str) -> Option<()> {
    let number = changed.strip_prefix("/local/domain/")?.strip_suffix(REQUEST)?.strip_suffix('/')?;
    let domain = DomainId::new(number.parse().ok()?);
    let request = client.read(TransactionId::NONE, changed).ok()?;
    let request: u64 = core::str::from_utf8(&request).ok()?.parse().ok()?;
    let text = format!("{request} {} {}", Counters::of(domain)?.text(), Counters::of(own)?.text());
    client
        .write(TransactionId::NONE, &format!("{}/{ANSWER}", path::domain_home(domain)), text.as_bytes())
        .ok()
}
