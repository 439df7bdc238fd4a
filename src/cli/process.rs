//! What the program asks of the process that it runs in, before there is a second thread. The library asks for nothing: there the
//! process is somebody else's.

/// Larger blocks go back to the system when they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: i32 = 1 << 20;

/// Has large blocks go back to the system when they are freed. Left alone glibc keeps what was once as large as a weight for
/// later, in pieces that what is loaded next fits in badly: looks at model after model held twice the memory so. Other
/// allocators do so of their own.
#[allow(unsafe_code, reason = "an option of the allocator, which has no safe binding")]
pub(super) fn return_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets a number in the allocator. Where it is refused nothing changes.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Keeps ONNX Runtime from setting up telemetry, for which it would write an identifier and a database into the user's cache. To
/// refuse events, as the library does, comes too late for that.
#[allow(unsafe_code, reason = "a variable of the environment, which other threads could be reading")]
pub(super) fn refuse_telemetry() {
    // SAFETY: there is no other thread yet.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
}
