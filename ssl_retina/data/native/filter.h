/* The filter of `crop.c`: boxes of pixels -> places of any size, by torch's antialiased bicubic for uint8.

   First across, rows of four bytes a pixel into rows of three, rounded to bytes; then down. Weights, their
   rounding and the order of the passes are torch's (ATen's UpSampleKernel), so that the bits are. */

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2")))
#define GROUP 4 /* rows and pixels taken at once: up to GROUP - 1 more than asked for are read and written */

/* What the caller packs as eight 64-bit numbers: a change here is a new name for `retina_draw_1`. */
struct view {
    int64_t left, top, right, bottom; /* the box, in pixels of the decoded image */
    int64_t width, height, flipped;   /* of the place; mirrored left to right if not 0 */
    uint8_t *out;                     /* height * width * 3 bytes */
};

/* One axis: output i is the sum of weight[i * room + j] * input[start[i] + j], j < used[i], over 2^shift.
   `room` is a multiple of GROUP, and weights beyond `used` are 0. */
struct axis {
    int room, shift;
    int *start, *used;
    int16_t *weight;
};

struct plan {
    struct axis across, down;
    uint8_t *rows; /* the box's rows, filtered across: `stride` bytes each */
    size_t stride;
};

/* ---- memory: one piece a thread, kept between calls: fresh pages cost as much as the filter ---- */

static __thread uint8_t *room;
static __thread size_t room_size, room_taken;

static int reserve(size_t size) {
    room_taken = 0;
    if (size <= room_size) return 1;
    free(room);
    room = calloc(size, 1);
    room_size = room ? size : 0;
    return room != NULL;
}

static size_t padded(size_t size) { return (size + 63) / 64 * 64; }

static void *take(size_t size) {
    uint8_t *found = room + room_taken;
    room_taken += padded(size);
    return found;
}

/* ---- weights: Keys' cubic with a = -0.5, in doubles and then in 16-bit numbers ---- */

static double cubic(double x) {
    x = x < 0 ? -x : x;
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
    return 0;
}

static double reach(int64_t in, int64_t out) {
    double scale = (double)in / (double)out;
    return scale >= 1 ? 2 * scale : 2;
}

static int most_taps(int64_t in, int64_t out) {
    return (2 * (int)(reach(in, out) + 1) + GROUP) / GROUP * GROUP;
}

static size_t axis_size(int64_t in, int64_t out) {
    size_t weights = (size_t)out * most_taps(in, out);
    return padded(weights * sizeof(double)) + padded(weights * 2) + 2 * padded((size_t)out * sizeof(int));
}

static void weigh(struct axis *axis, int64_t in, int64_t out, int flipped) {
    const double scale = (double)in / (double)out, support = reach(in, out);
    const double inverse = scale >= 1 ? 1 / scale : 1;
    axis->room = most_taps(in, out);
    const size_t weights = (size_t)out * axis->room;
    double *real = take(weights * sizeof(double)), largest = 0;
    axis->start = take((size_t)out * sizeof(int));
    axis->used = take((size_t)out * sizeof(int));
    axis->weight = take(weights * 2);
    for (int64_t i = 0; i < out; i++) {
        const int64_t at = flipped ? out - 1 - i : i;
        const double centre = scale * ((double)i + 0.5);
        int64_t start = (int64_t)(centre - support + 0.5), end = (int64_t)(centre + support + 0.5);
        start = start < 0 ? 0 : start;
        end = end > in ? in : end;
        const int used = (int)(end - start);
        double *weight = real + at * axis->room, total = 0;
        for (int j = 0; j < used; j++) {
            weight[j] = cubic(((double)(j + start) - centre + 0.5) * inverse);
            total += weight[j];
        }
        for (int j = 0; j < used; j++) {
            if (total != 0) weight[j] /= total;
            if (weight[j] > largest) largest = weight[j];
        }
        for (int j = used; j < axis->room; j++) weight[j] = 0;
        axis->start[at] = (int)start;
        axis->used[at] = used;
    }
    for (axis->shift = 0; axis->shift < 22; axis->shift++)
        if ((int)(0.5 + largest * (1 << (axis->shift + 1))) >= 1 << 15) break;
    for (size_t i = 0; i < weights; i++) {
        const double value = real[i] * (1 << axis->shift);
        axis->weight[i] = (int16_t)(value < 0 ? value - 0.5 : value + 0.5);
    }
}

/* ---- the two passes; sums in 32 bits, cut to 0..255 ---- */

/* Two neighbouring weights, for _mm256_madd_epi16. */
AVX2 static __m256i pair(const int16_t *weight) {
    int32_t both;
    memcpy(&both, weight, sizeof both);
    return _mm256_set1_epi32(both);
}

/* The same GROUP pixels of two rows of four bytes a pixel. */
AVX2 static __m256i two_rows(const uint8_t *at, size_t stride) {
    const __m128i upper = _mm_loadu_si128((const __m128i *)at);
    const __m128i lower = _mm_loadu_si128((const __m128i *)(at + stride));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(upper), lower, 1);
}

static void put(uint8_t *out, int32_t pixel) { memcpy(out, &pixel, sizeof pixel); }

/* GROUP rows at `in` (four bytes a pixel) -> GROUP rows of `width` pixels at `out` (three bytes a pixel, and
   one more is written behind the last). */
AVX2 static void filter_across(const struct axis *axis, const uint8_t *in, size_t in_stride, uint8_t *out,
                               size_t out_stride, int64_t width) {
    /* colours of pixels 0 and 1, of 2 and 3, side by side as 16-bit numbers, in each half */
    const __m256i left = _mm256_setr_epi8(0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1,
                                          0, -1, 4, -1, 1, -1, 5, -1, 2, -1, 6, -1, 3, -1, 7, -1);
    const __m256i right = _mm256_add_epi8(left, _mm256_set1_epi16(8));
    const __m256i half = _mm256_set1_epi32(1 << (axis->shift - 1));
    const __m128i shift = _mm_cvtsi32_si128(axis->shift);
    const struct axis own = *axis; /* or each write to `out` makes the compiler read it anew */
    const int16_t *weight = own.weight;
    for (int64_t x = 0; x < width; x++, out += 3, weight += own.room) {
        const uint8_t *at = in + 4 * (size_t)own.start[x];
        const int used = own.used[x];
        __m256i upper = half, lower = half;
        for (int j = 0; j < used; j += GROUP, at += 4 * GROUP) {
            const __m256i first = pair(weight + j), second = pair(weight + j + 2);
            __m256i pixels = two_rows(at, in_stride);
            upper = _mm256_add_epi32(upper, _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, left), first));
            upper = _mm256_add_epi32(upper, _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, right), second));
            pixels = two_rows(at + 2 * in_stride, in_stride);
            lower = _mm256_add_epi32(lower, _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, left), first));
            lower = _mm256_add_epi32(lower, _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, right), second));
        }
        upper = _mm256_packs_epi32(_mm256_sra_epi32(upper, shift), _mm256_sra_epi32(lower, shift));
        upper = _mm256_packus_epi16(upper, upper);
        const __m128i even = _mm256_castsi256_si128(upper), odd = _mm256_extracti128_si256(upper, 1);
        put(out, _mm_cvtsi128_si32(even));
        put(out + out_stride, _mm_cvtsi128_si32(odd));
        put(out + 2 * out_stride, _mm_extract_epi32(even, 1));
        put(out + 3 * out_stride, _mm_extract_epi32(odd, 1));
    }
}

/* All rows of a view -> its place. What is filtered are bytes, whatever their colour. */
AVX2 static void filter_down(const struct plan *plan, const struct view *view) {
    const struct axis axis = plan->down;
    const size_t bytes = 3 * (size_t)view->width;
    const __m256i half = _mm256_set1_epi32(1 << (axis.shift - 1)), zero = _mm256_setzero_si256();
    const __m128i shift = _mm_cvtsi32_si128(axis.shift);
    uint8_t *out = view->out;
    for (int64_t y = 0; y < view->height; y++, out += bytes)
        for (size_t x = 0; x < bytes; x += 32) {
            const int16_t *weight = axis.weight + y * axis.room;
            const int used = axis.used[y];
            const uint8_t *at = plan->rows + axis.start[y] * plan->stride + x;
            __m256i a = half, b = half, c = half, d = half;
            for (int j = 0; j < used; j += 2, at += 2 * plan->stride) {
                const __m256i both = pair(weight + j), upper = _mm256_loadu_si256((const __m256i *)at);
                const __m256i lower = _mm256_loadu_si256((const __m256i *)(at + plan->stride));
                const __m256i low = _mm256_unpacklo_epi8(upper, lower);
                const __m256i high = _mm256_unpackhi_epi8(upper, lower);
                a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), both));
                b = _mm256_add_epi32(b, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), both));
                c = _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), both));
                d = _mm256_add_epi32(d, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), both));
            }
            a = _mm256_packs_epi32(_mm256_sra_epi32(a, shift), _mm256_sra_epi32(b, shift));
            c = _mm256_packs_epi32(_mm256_sra_epi32(c, shift), _mm256_sra_epi32(d, shift));
            a = _mm256_packus_epi16(a, c);
            if (x + 32 <= bytes)
                _mm256_storeu_si256((__m256i *)(out + x), a);
            else
                memcpy(out + x, &a, bytes - x);
        }
}
