/* Preloaded by older_cpu.py: answers CPUID as an older CPU would.

   The libraries' CPUID instructions (0F A2) are replaced by an invalid one (0F 04); the handler
   below carries the real one out, clears what the older CPU lacks and steps over it. What reads
   /proc/cpuinfo is given the file that OLDER_CPU_INFO names. */

#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

static unsigned vnni512, avx512, vnni; /* 1: the older CPU has it */

static void mask(unsigned leaf, unsigned part, unsigned *b, unsigned *c, unsigned *d, unsigned *a)
{
    if (leaf != 7)
        return;
    if (part == 0) {
        *c &= ~(vnni512 ? 0u : 1u << 11);
        *d &= ~(1u << 22 | 1u << 24 | 1u << 25 | 1u << 23); /* AMX and AVX512-FP16 */
        if (!avx512) {
            /* F, DQ, IFMA, PF, ER, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; the rest */
            *b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 7u << 26 | 3u << 30);
            *c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
            *d &= ~(1u << 2 | 1u << 3 | 1u << 8);
        }
    } else if (part == 1) {
        *a &= ~(1u << 5 | 1u << 21); /* AVX512-BF16, AMX-FP16 */
        if (!vnni) {
            *a &= ~(1u << 4 | 1u << 23);            /* AVX-VNNI, AVX-IFMA */
            *d &= ~(1u << 4 | 1u << 5 | 1u << 10);  /* AVX-VNNI-INT8, AVX-NE-CONVERT, -INT16 */
        }
        *d &= ~(1u << 8 | 1u << 19); /* AMX-COMPLEX, AVX10 */
    }
}

static struct sigaction before;

static void on_invalid(int number, siginfo_t *info, void *context)
{
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *at = (const unsigned char *)r[REG_RIP];
    if (at[0] != 0x0F || at[1] != 0x04) { /* not ours: as without us */
        sigaction(SIGILL, &before, NULL);
        return;
    }
    unsigned leaf = (unsigned)r[REG_RAX], part = (unsigned)r[REG_RCX], a, b, c, d;
    __cpuid_count(leaf, part, a, b, c, d);
    mask(leaf, part, &b, &c, &d, &a);
    r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void)
{
    const char *level = getenv("OLDER_CPU");
    if (!level)
        return;
    vnni512 = !strcmp(level, "avx512-vnni");
    avx512 = vnni512 || !strcmp(level, "avx512");
    vnni = !strcmp(level, "avx-vnni");
    struct sigaction action = {.sa_sigaction = on_invalid, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGILL, &action, &before);
}

static const char *shown(const char *path)
{
    const char *instead = getenv("OLDER_CPU_INFO");
    return instead && !strcmp(path, "/proc/cpuinfo") ? instead : path;
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...)                                                     \
    {                                                                                              \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                    \
        va_end(rest);                                                                              \
        int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        return real(shown(path), flags, mode);                                                     \
    }

OPEN(open)
OPEN(open64)
