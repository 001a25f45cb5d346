use super::*;
use crate::testing::cpio;
use std::string::ToString;
use std::vec;

fn good() -> Vec<u8> {
    cpio(&[("manifest", b"xenolith 1\n"), ("kernel", &[7; 10]), ("empty", b"")])
}

#[test]
fn files_are_found_by_name() {
    let archive = good();
    let bundle = Bundle::parse(&archive).unwrap();
    assert_eq!(bundle.manifest(), "xenolith 1\n");
    assert_eq!(bundle.file("kernel"), Some(&[7; 10][..]));
    assert_eq!(bundle.file("empty"), Some(&[][..]));
    assert_eq!(bundle.file("missing"), None);
    assert_eq!(bundle.files().len(), 3);
}

#[test]
fn every_truncation_is_told_as_one() {
    let archive = good();
    // What follows the trailer's name is padding.
    let last = archive.windows(10).position(|window| window == b"TRAILER!!!").unwrap() + 11;
    for len in 1..last {
        let error = Bundle::parse(&archive[..len]).unwrap_err();
        assert!(matches!(error, BundleError::Truncated { .. }), "{len}: {error}");
        assert!(error.to_string().contains("is truncated"));
    }
    assert!(Bundle::parse(&archive[..last]).is_ok());
    assert_eq!(Bundle::parse(&[]).unwrap_err(), BundleError::Missing);
}

#[test]
fn the_manifest_must_be_first() {
    let archive = cpio(&[("kernel", b"k"), ("manifest", b"xenolith 1\n")]);
    let error = Bundle::parse(&archive).unwrap_err();
    assert_eq!(error.to_string(), "the boot bundle is not in order: `manifest` must be its first file");
    assert_eq!(Bundle::parse(&cpio(&[("kernel", b"k")])).unwrap_err(), BundleError::NoManifest);
    assert_eq!(Bundle::parse(&cpio(&[])).unwrap_err(), BundleError::NoManifest);
}

#[test]
fn other_kinds_of_files_are_named() {
    assert_eq!(Bundle::parse(b"\x1f\x8b\x08").unwrap_err(), BundleError::Compressed("gzip"));
    assert_eq!(Bundle::parse(b"\x7fELF").unwrap_err(), BundleError::NotAnArchive);
    assert_eq!(Bundle::parse(b"070702").unwrap_err(), BundleError::NotAnArchive);
}

#[test]
fn damage_is_told_with_its_place() {
    let mut archive = good();
    let second = archive.windows(6).skip(1).position(|window| window == MAGIC).unwrap() + 1;
    archive[second] = b'x';
    assert_eq!(Bundle::parse(&archive).unwrap_err(), BundleError::BadMagic { at: second });
    let mut archive = good();
    archive[6 + 8] = b'g';
    assert_eq!(Bundle::parse(&archive).unwrap_err(), BundleError::BadNumber { at: 0 });
    let mut archive = good();
    archive[HEADER_BYTES] = 0xff;
    assert_eq!(Bundle::parse(&archive).unwrap_err(), BundleError::BadName { at: 0 });
    // A size that leaves the archive by far.
    let mut archive = good();
    archive[6 + 48..6 + 56].copy_from_slice(b"ffffffff");
    assert_eq!(Bundle::parse(&archive).unwrap_err(), BundleError::Truncated { at: 0 });
    let archive = cpio(&[("manifest", b"a"), ("x", b"1"), ("x", b"2")]);
    assert!(matches!(Bundle::parse(&archive).unwrap_err(), BundleError::Twice { .. }));
    let archive = cpio(&[("manifest", b"ab\xff")]);
    assert_eq!(Bundle::parse(&archive).unwrap_err(), BundleError::ManifestNotText { at: 2 });
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = Bundle::parse(&bytes);
        let mut archive = vec::Vec::from(MAGIC);
        archive.extend(&bytes);
        let _ = Bundle::parse(&archive);
    }

    #[test]
    fn no_flipped_byte_makes_it_panic(at in 0_usize..500, value in proptest::num::u8::ANY) {
        let mut archive = good();
        if let Some(byte) = archive.get_mut(at) {
            *byte = value;
        }
        let _ = Bundle::parse(&archive);
    }
}
