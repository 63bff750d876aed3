//! CRC-32C over whole words, by the processor's own instruction where it has one.
//!
//! A record has a handful of words, and its checksum is a good part of what it costs. The crate `crc32c` splits its input
//! to run three streams side by side, which pays for kilobytes; here one stream without any set-up is the fastest. The sums are
//! the same.

/// Continues a checksum (0: begins one) with some words, and the bytes of others.
#[inline]
pub(crate) fn continued(check: u32, words: &[u64], bytes: &[[u8; 8]]) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has the instruction, as was just asked.
        return unsafe { by_instruction(check, words, bytes) };
    }
    let add = |check, word: u64| crc32c::crc32c_append(check, &word.to_le_bytes());
    crc32c::crc32c_append(words.iter().copied().fold(check, add), bytes.as_flattened())
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "sse4.2")]
fn by_instruction(check: u32, words: &[u64], bytes: &[[u8; 8]]) -> u32 {
    use std::arch::x86_64::_mm_crc32_u64;
    // Loops, because in a closure the instruction would be a call.
    let mut state = u64::from(!check);
    for word in words {
        state = _mm_crc32_u64(state, *word);
    }
    for word in bytes {
        state = _mm_crc32_u64(state, u64::from_le_bytes(*word));
    }
    !(state as u32)
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    #[test]
    fn both_ways_give_the_standard_sum() {
        let bytes: Vec<u8> = (0..4096_u32).map(|n| ((n * 31) >> 3) as u8).collect();
        let (words, _) = bytes.as_chunks::<8>();
        for len in 0..words.len() {
            let (first, second) = words[..len].split_at(len / 3);
            let first: Vec<u64> = first.iter().map(|word| u64::from_le_bytes(*word)).collect();
            let expected = crc32c::crc32c(&bytes[..len * 8]);
            assert_eq!(continued(0, &first, second), expected);
            assert_eq!(continued(continued(0, &first, &[]), &[], second), expected);
        }
    }
}
