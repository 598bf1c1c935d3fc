// What CUDA C needs to run on the host: one block after the other, its threads in turns from barrier to barrier.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __shared__ static

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using half = _Float16;

template <class T, int N> struct alignas(sizeof(T) * N) Lanes { T lanes[N]; };
using half2 = Lanes<half, 2>; using half4 = Lanes<half, 4>;
using float2 = Lanes<float, 2>; using float4 = Lanes<float, 4>;
using int2 = Lanes<int, 2>; using int4 = Lanes<int, 4>;
using uint1 = Lanes<uint, 1>; using uint2 = Lanes<uint, 2>; using uint4 = Lanes<uint, 4>;
using ushort2 = Lanes<ushort, 2>; using ushort4 = Lanes<ushort, 4>;
using char4 = Lanes<signed char, 4>; using uchar4 = Lanes<uchar, 4>;
using longlong2 = Lanes<long long, 2>;

#define alignas(size) __attribute__((aligned(size)))  // which may stand anywhere

#define CUDART_INF_F INFINITY
#define CUDART_INF ((double)INFINITY)
#define CUDART_NAN_F NAN
#define CUDART_NAN ((double)NAN)

struct Place { unsigned x, y, z; };
static Place threadIdx, blockIdx;

namespace host {

constexpr int WARP = 32;
constexpr size_t STACK = 64 * 1024;

struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    bool is_done;
    const void *shown[2];  // what the other threads of a warp may read
};

static std::vector<Thread> threads;
static ucontext_t scheduler;
static Place extent;
static int current;
static const std::function<void()> *body;

static void enter(int number)
{
    current = number;
    threadIdx = {number % extent.x, number / extent.x % extent.y, number / (extent.x * extent.y)};
}

static void begin()
{
    (*body)();
    threads[current].is_done = true;
    swapcontext(&threads[current].context, &scheduler);
}

// The other threads go on until each of them waits, too, or has ended.
static void wait()
{
    swapcontext(&threads[current].context, &scheduler);
}

static const Thread &of_warp(int lane)
{
    return threads[current / WARP * WARP + lane];
}

static void run_block()
{
    for (size_t n = 0; n < threads.size(); ++n) {
        Thread &thread = threads[n];
        thread.is_done = false;
        getcontext(&thread.context);
        thread.stack.resize(STACK);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = STACK;
        makecontext(&thread.context, begin, 0);
    }
    for (bool is_busy = true; is_busy;) {
        is_busy = false;
        for (size_t n = 0; n < threads.size(); ++n) {
            if (!threads[n].is_done) {
                is_busy = true;
                enter(n);
                swapcontext(&scheduler, &threads[n].context);
            }
        }
    }
}

static void launch(Place grid, Place block, bool has_barriers, const std::function<void()> &kernel)
{
    extent = block;
    body = &kernel;
    int count = block.x * block.y * block.z;
    threads.resize(count);
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
                if (has_barriers) {
                    run_block();
                } else {
                    for (int n = 0; n < count; ++n) {
                        enter(n);
                        kernel();
                    }
                }
            }
        }
    }
}

template <class Element, int PACKED> static Element element(const unsigned *registers, int number)
{
    Element found[PACKED];
    memcpy(found, &registers[number / PACKED], sizeof found);
    return found[number % PACKED];
}

// PTX ISA, "Matrix Fragments for mma": PACKED elements in a register, four lanes along the sum.
template <class Left, class Right, class Total, int PACKED>
static void multiply(Total *sums, const unsigned *left, const unsigned *right)
{
    threads[current].shown[0] = left;
    threads[current].shown[1] = right;
    wait();
    int lane = current % WARP;
    for (int n = 0; n < 4; ++n) {
        int row = lane / 4 + 8 * (n / 2), column = lane % 4 * 2 + n % 2;
        for (int term = 0; term < 8 * PACKED; ++term) {
            int upper = term / (4 * PACKED), member = term / PACKED % 4, packed = term % PACKED;
            auto a = (const unsigned *)of_warp(row % 8 * 4 + member).shown[0];
            auto b = (const unsigned *)of_warp(column * 4 + member).shown[1];
            Left x = element<Left, PACKED>(a, (upper * 2 + row / 8) * PACKED + packed);
            Right y = element<Right, PACKED>(b, upper * PACKED + packed);
            sums[n] += (Total)x * (Total)y;
        }
    }
    wait();
}

static void load_matrices(unsigned *fragment, const void *shared, bool is_transposed)
{
    threads[current].shown[0] = shared;
    wait();
    int lane = current % WARP;
    for (int matrix = 0; matrix < 4; ++matrix) {
        ushort found[2];
        for (int n = 0; n < 2; ++n) {
            int row = lane / 4, column = lane % 4 * 2 + n;
            int line = is_transposed ? column : row, place = is_transposed ? row : column;
            found[n] = ((const ushort *)of_warp(matrix * 8 + line).shown[0])[place];
        }
        memcpy(&fragment[matrix], found, sizeof found);
    }
    wait();
}

struct Bfloat16 {
    ushort bits;
    operator float() const
    {
        unsigned wide = (unsigned)bits << 16;
        float value;
        memcpy(&value, &wide, sizeof value);
        return value;
    }
};

// A float of which tensor cores read 10 bits of the mantissa.
struct Tf32 {
    unsigned bits;
    operator float() const
    {
        unsigned read = bits & ~0x1fffu;
        float value;
        memcpy(&value, &read, sizeof value);
        return value;
    }
};

}  // namespace host

static inline void __syncthreads() { host::wait(); }

static inline float rtcc_shuffle_xor(float value, int lanes)
{
    host::threads[host::current].shown[0] = &value;
    host::wait();
    float found = *(const float *)host::of_warp((host::current % host::WARP) ^ lanes).shown[0];
    host::wait();
    return found;
}

template <int SIZE> static inline void copy(void *shared, const void *global, int bytes)
{
    if (((uintptr_t)shared | (uintptr_t)global) % SIZE) {
        abort();
    }
    memset(shared, 0, SIZE);
    memcpy(shared, global, bytes);
}

static inline void rtcc_cp_async_4(void *s, const void *g, int bytes) { copy<4>(s, g, bytes); }
static inline void rtcc_cp_async_8(void *s, const void *g, int bytes) { copy<8>(s, g, bytes); }
static inline void rtcc_cp_async_16(void *s, const void *g, int bytes) { copy<16>(s, g, bytes); }
static inline void rtcc_cp_async_commit() {}
static inline void rtcc_cp_async_wait_0() {}
static inline void rtcc_cp_async_wait_1() {}
static inline void rtcc_cp_async_wait_2() {}
static inline void rtcc_cp_async_wait_3() {}

static inline void rtcc_ldmatrix(unsigned *f, const void *s) { host::load_matrices(f, s, false); }
static inline void rtcc_ldmatrix_trans(unsigned *f, const void *s) { host::load_matrices(f, s, true); }

static inline void rtcc_mma_f16(float *sums, const unsigned *left, const unsigned *right)
{
    host::multiply<half, half, float, 2>(sums, left, right);
}

static inline void rtcc_mma_bf16(float *sums, const unsigned *left, const unsigned *right)
{
    host::multiply<host::Bfloat16, host::Bfloat16, float, 2>(sums, left, right);
}

static inline void rtcc_mma_tf32(float *sums, const unsigned *left, const unsigned *right)
{
    host::multiply<host::Tf32, host::Tf32, float, 1>(sums, left, right);
}

static inline void rtcc_mma_s8(int *sums, const unsigned *left, const unsigned *right)
{
    host::multiply<signed char, signed char, int, 4>(sums, left, right);
}

static inline void rtcc_mma_u8s8(int *sums, const unsigned *left, const unsigned *right)
{
    host::multiply<uchar, signed char, int, 4>(sums, left, right);
}

// Each float rounded to the nearest half or bfloat16, those in the middle to the even one.
static inline unsigned rtcc_pack_f16(float lower, float upper)
{
    half pair[2] = {(half)lower, (half)upper};
    unsigned packed;
    memcpy(&packed, pair, sizeof packed);
    return packed;
}

static inline unsigned rtcc_pack_bf16(float lower, float upper)
{
    unsigned packed = 0;
    for (int n = 0; n < 2; ++n) {
        float value = n ? upper : lower;
        unsigned bits;
        memcpy(&bits, &value, sizeof bits);
        unsigned rounded = std::isnan(value) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        packed |= rounded << 16 * n;
    }
    return packed;
}

static inline float __fmul_rn(float a, float b) { return a * b; }
static inline half __float2half_rn(float x) { return (half)x; }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
