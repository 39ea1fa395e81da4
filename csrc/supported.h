/* supported.h: refuses, at the start of a build, what the library cannot work with.
 *
 * build_ffi.py compiles this file alone before all others, and shows the first sentence that
 * applies as its one line. Each sentence therefore says what to use instead. */
#ifndef SUPPORTED_H
#define SUPPORTED_H

#if defined(_MSC_VER)
#error "pygpt needs GCC or Clang, because it uses their vector types, which MSVC lacks; on Windows, use WSL (wsl --install) and its gcc"
#elif defined(__clang__) && defined(__apple_build_version__)
#if __clang_major__ < 14
#error "pygpt needs Apple Clang 14 or newer; update Xcode's command line tools"
#endif
#elif defined(__clang__)
#if __clang_major__ < 13
#error "pygpt needs Clang 13 or newer; install one and set CC, such as CC=clang-14"
#endif
#elif !defined(__GNUC__)
#error "pygpt needs GCC 9 or newer or Clang 13 or newer, because it uses their vector types; set CC to one of them"
#elif __GNUC__ < 9
#error "pygpt needs GCC 9 or newer, because older ones lack __builtin_convertvector; install one and set CC, such as CC=gcc-12"
#endif

#if defined(_WIN32)
#error "pygpt does not run on Windows itself, because it uses POSIX files and processes; use WSL (wsl --install) and its gcc"
#endif

/* Files hold little-endian numbers, and the kernels take the halves of a float by their place. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "pygpt needs a little-endian processor, such as x86-64 or AArch64"
#endif

/* Sizes are int64_t, and a model's arrays pass 4 GB. */
#if defined(__SIZEOF_POINTER__) && __SIZEOF_POINTER__ < 8
#error "pygpt needs a 64-bit system and a 64-bit Python, such as for x86-64 or AArch64"
#endif

#endif
