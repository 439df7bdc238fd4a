//! How the program's memory is handed back.

/// Larger blocks go back to the system when they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: i32 = 1 << 20;

/// Has large blocks go back to the system when they are freed. Left alone glibc keeps what was once as large as a weight for
/// later, in pieces that what is loaded next fits in badly: looks at model after model held twice the memory so.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "an option of the allocator, which has no safe binding")]
pub(super) fn return_large_blocks() {
    // SAFETY: sets a number in the allocator, before there is a second thread. Where it is refused nothing changes.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

/// Other allocators do so of their own.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn return_large_blocks() {}
