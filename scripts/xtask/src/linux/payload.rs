//! What is packed in a compressed Linux image (bzImage).
//!
//! The boot sector's header says where the payload is (Linux, `Documentation/arch/x86/boot.rst`, `payload_offset`); it
//! begins with the mark of its compression, and holds an ELF file.

use anyhow::{Context, Result, bail, ensure};
use std::io::Read;

/// How much of a file [`is_image`] wants to see.
pub const HEADER: usize = 0x250;
/// The first protocol version with a payload in its header.
const FIRST_VERSION: u16 = 0x208;
/// The largest kernel that is unpacked, in bytes: many times what they have.
const MOST: u64 = 1 << 30;
/// The most bytes in a block of the old LZ4 format (`lz4 -l`), before compression.
const LZ4_BLOCK: usize = 8 << 20;

/// Whether a file that begins so is a compressed Linux image.
pub fn is_image(bytes: &[u8]) -> bool {
    bytes.get(0x202..0x206) == Some(b"HdrS") && bytes.get(0x1fe..0x200) == Some(&[0x55, 0xaa])
}

/// Returns the kernel that is packed in an image; nothing if the file is no compressed Linux image.
pub fn unpack(image: &[u8]) -> Result<Option<Vec<u8>>> {
    if !is_image(image) {
        return Ok(None);
    }
    let bytes = |at: usize, count: usize| image.get(at..at + count).context("the image ends in its header");
    let word = |at| Ok::<_, anyhow::Error>(u32::from_le_bytes(bytes(at, 4)?.try_into()?) as usize);
    let version = u16::from_le_bytes(bytes(0x206, 2)?.try_into()?);
    ensure!(
        version >= FIRST_VERSION,
        "the image is of a Linux before 2.6.24, which was no paravirtual guest"
    );
    let sectors = match image[0x1f1] {
        0 => 4,
        count => usize::from(count),
    };
    let start = (sectors + 1) * 512 + word(0x248)?;
    let payload = start
        .checked_add(word(0x24c)?)
        .and_then(|end| image.get(start..end))
        .context("the image is truncated: its payload leaves the file")?;
    let kernel = decompress(payload)?;
    ensure!(kernel.starts_with(b"\x7fELF"), "what is packed in the image is no ELF file");
    Ok(Some(kernel))
}

/// Decompresses by the mark at the beginning. What follows the end of the compressed data does not matter: Linux appends
/// the length.
pub fn decompress(packed: &[u8]) -> Result<Vec<u8>> {
    let (name, reader): (_, Box<dyn Read + '_>) = match packed {
        [0x1f, 0x8b, ..] => ("gzip", Box::new(flate2::read::GzDecoder::new(packed))),
        [b'B', b'Z', b'h', ..] => ("bzip2", Box::new(bzip2::read::BzDecoder::new(packed))),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => ("xz", Box::new(liblzma::read::XzDecoder::new(packed))),
        [0x5d, 0, 0, ..] => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(u64::MAX)?;
            ("lzma", Box::new(liblzma::read::XzDecoder::new_stream(packed, stream)))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(packed);
            ("zstd", Box::new(decoder.map_err(|error| anyhow::anyhow!("zstd: {error}"))?))
        }
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => return lz4(rest),
        [0x7f, b'E', b'L', b'F', ..] => ("nothing", Box::new(packed)),
        [0x89, b'L', b'Z', b'O', ..] => {
            bail!("the kernel is compressed by LZO, which is not supported: take vmlinux instead")
        }
        _ => bail!("the kernel's compression is unknown: take vmlinux instead"),
    };
    let mut kernel = Vec::new();
    reader
        .take(MOST)
        .read_to_end(&mut kernel)
        .with_context(|| format!("the compressed data ({name}) is damaged"))?;
    Ok(kernel)
}

/// The old format of LZ4, which Linux uses: blocks with their lengths, without an end mark.
fn lz4(mut packed: &[u8]) -> Result<Vec<u8>> {
    let mut kernel = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while let Some((length, rest)) = packed.split_first_chunk::<4>() {
        // The kernel's length ends the payload; as a block's it would leave the file.
        let Some((data, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else { break };
        let count = lz4_flex::block::decompress_into(data, &mut block)
            .context("the compressed data (LZ4) is damaged")?;
        kernel.extend_from_slice(&block[..count]);
        packed = rest;
    }
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x66HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend([0; 16]);
        image.extend(payload);
        image
    }

    fn kernel() -> Vec<u8> {
        [b"\x7fELF".to_vec(), (0..100_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect()].concat()
    }

    fn with_length(mut packed: Vec<u8>) -> Vec<u8> {
        packed.extend(400_004_u32.to_le_bytes());
        packed
    }

    #[test]
    fn kernels_of_every_compression_come_out() {
        let gzip = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&kernel()).unwrap();
            encoder.finish().unwrap()
        };
        let bzip2 = {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(&kernel()).unwrap();
            encoder.finish().unwrap()
        };
        let xz = liblzma::encode_all(kernel().as_slice(), 1).unwrap();
        let lzma = {
            let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
            let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
            let mut packed = Vec::new();
            liblzma::read::XzEncoder::new_stream(kernel().as_slice(), stream)
                .read_to_end(&mut packed)
                .unwrap();
            packed
        };
        let zstd = ruzstd::encoding::compress_to_vec(
            kernel().as_slice(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        let lz4 = {
            let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
            for block in kernel().chunks(LZ4_BLOCK) {
                let data = lz4_flex::block::compress(block);
                packed.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
                packed.extend(data);
            }
            packed
        };
        for packed in [gzip, bzip2, xz, lzma, zstd, lz4, kernel()] {
            let unpacked = unpack(&image(&with_length(packed.clone()))).unwrap().unwrap();
            assert_eq!(unpacked[..kernel().len()], kernel(), "mark {:x?}", &packed[..4]);
        }
    }

    #[test]
    fn what_is_no_image_is_left_alone() {
        assert_eq!(unpack(&kernel()).unwrap(), None);
        assert_eq!(unpack(b"").unwrap(), None);
    }

    #[test]
    fn a_bad_image_is_told_in_a_sentence() {
        let error = |payload: &[u8]| format!("{:#}", unpack(&image(payload)).unwrap_err());
        assert_eq!(
            error(b"\x89LZO data"),
            "the kernel is compressed by LZO, which is not supported: take vmlinux instead"
        );
        assert_eq!(error(b"new method"), "the kernel's compression is unknown: take vmlinux instead");
        assert!(error(&[0x1f, 0x8b, 8, 0, 1, 2, 3]).starts_with("the compressed data (gzip) is damaged"));
        assert_eq!(
            error(&liblzma::encode_all(&b"text"[..], 1).unwrap()),
            "what is packed in the image is no ELF file"
        );
        let mut short = image(b"\x7fELF");
        short.pop();
        assert!(unpack(&short).unwrap_err().to_string().contains("truncated"));
        short.truncate(0x230);
        assert!(unpack(&short).is_err());
    }
}
