/* The filter of `crop.c`: boxes of pixels -> places of any size, by torch's antialiased bicubic for uint8.

   First across, rows of four bytes a pixel into rows of three, rounded to bytes; then down. Weights, their
   rounding and the order of the passes are torch's (ATen's UpSampleKernel), so that the bits are. */

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2")))
#define GROUP 4 /* pixels, and weights, taken at once: up to GROUP - 1 more than asked for */
#define ROWS 8  /* rows taken at once across: up to ROWS - 1 more than asked for are read and written */

/* What the caller packs as eight 64-bit numbers: a change here is a new name for `retina_draw_1`. */
struct view {
    int64_t left, top, right, bottom; /* the box, in pixels of the decoded image */
    int64_t width, height, flipped;   /* of the place; mirrored left to right if not 0 */
    uint8_t *out;                     /* height * width * 3 bytes */
};

/* One axis: output i is the sum of weight[i * room + j] * input[start[i] + j], j < used[i], over 2^shift.
   `room` is a multiple of GROUP, and weights beyond `used` are 0. */
struct axis {
    int room, taps, shift; /* taps: the most that an output uses */
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

/* Of four distances, with the operations of the scalar formula in their order: vectors round as it does. */
AVX2 static __m256d cubic(__m256d x) {
    const __m256d one = _mm256_set1_pd(1), two = _mm256_set1_pd(2);
    x = _mm256_andnot_pd(_mm256_set1_pd(-0.0), x);
    __m256d near = _mm256_sub_pd(_mm256_mul_pd(_mm256_set1_pd(1.5), x), _mm256_set1_pd(2.5));
    near = _mm256_add_pd(_mm256_mul_pd(_mm256_mul_pd(near, x), x), one);
    __m256d far = _mm256_add_pd(_mm256_mul_pd(_mm256_set1_pd(-0.5), x), _mm256_set1_pd(2.5));
    far = _mm256_add_pd(_mm256_mul_pd(_mm256_sub_pd(_mm256_mul_pd(far, x), _mm256_set1_pd(4)), x), two);
    far = _mm256_and_pd(far, _mm256_cmp_pd(x, two, _CMP_LT_OQ));
    return _mm256_blendv_pd(far, near, _mm256_cmp_pd(x, one, _CMP_LT_OQ));
}

static double reach(int64_t in, int64_t out) {
    double scale = (double)in / (double)out;
    return scale >= 1 ? 2 * scale : 2;
}

static int most_taps(int64_t in, int64_t out) {
    return (2 * (int)(reach(in, out) + 1) + GROUP) / GROUP * GROUP;
}

static size_t grouped(int64_t number) { return (size_t)(number + GROUP - 1) / GROUP * GROUP; }

static size_t axis_size(int64_t in, int64_t out) {
    size_t weights = grouped(out) * most_taps(in, out);
    return padded(weights * sizeof(double)) + padded(weights * 2) + 2 * padded(grouped(out) * sizeof(int));
}

/* One output's weights, `used` of them from input `start` on and zeros up to `room`, of the sum 1. Gives the
   largest of all so far, in four parts. */
AVX2 static __m256d weigh_one(double *weight, int used, int room, int start, double centre, double inverse,
                              __m256d largest) {
    double total = 0;
    for (int j = 0; j < used; j += GROUP) {
        const __m128i at = _mm_add_epi32(_mm_set1_epi32(start + j), _mm_setr_epi32(0, 1, 2, 3));
        __m256d x = _mm256_sub_pd(_mm256_cvtepi32_pd(at), _mm256_set1_pd(centre));
        x = _mm256_mul_pd(_mm256_add_pd(x, _mm256_set1_pd(0.5)), _mm256_set1_pd(inverse));
        _mm256_storeu_pd(weight + j, cubic(x));
    }
    for (int j = used; j < room; j++) weight[j] = 0;
    for (int j = 0; j < used; j++) total += weight[j];
    const __m256d sum = _mm256_set1_pd(total != 0 ? total : 1);
    for (int j = 0; j < used; j += GROUP) {
        const __m256d share = _mm256_div_pd(_mm256_loadu_pd(weight + j), sum);
        _mm256_storeu_pd(weight + j, share);
        largest = _mm256_max_pd(largest, share);
    }
    return largest;
}

/* Doubles -> 16-bit numbers of 1 / 2^shift, halves away from 0. */
AVX2 static void round_weights(const double *real, int16_t *weight, size_t number, int shift) {
    const __m256d scale = _mm256_set1_pd(1 << shift), half = _mm256_set1_pd(0.5), sign = _mm256_set1_pd(-0.0);
    for (size_t i = 0; i < number; i += GROUP) {
        const __m256d value = _mm256_mul_pd(_mm256_loadu_pd(real + i), scale);
        const __m256d away = _mm256_add_pd(value, _mm256_or_pd(half, _mm256_and_pd(value, sign)));
        const __m128i whole = _mm256_cvttpd_epi32(away);
        _mm_storel_epi64((__m128i *)(weight + i), _mm_packs_epi32(whole, whole));
    }
}

AVX2 static void weigh(struct axis *axis, int64_t in, int64_t out, int flipped) {
    const double scale = (double)in / (double)out, support = reach(in, out);
    const double inverse = scale >= 1 ? 1 / scale : 1;
    axis->room = most_taps(in, out);
    axis->taps = 0;
    const size_t weights = (size_t)out * axis->room;
    double *real = take(weights * sizeof(double)), most[GROUP];
    axis->start = take(grouped(out) * sizeof(int));
    axis->used = take(grouped(out) * sizeof(int));
    axis->weight = take(grouped(out) * axis->room * 2);
    for (size_t i = (size_t)out; i < grouped(out); i++) axis->start[i] = 0; /* never looked at */
    __m256d largest = _mm256_setzero_pd();
    for (int64_t i = 0; i < out; i++) {
        const int64_t at = flipped ? out - 1 - i : i;
        const double centre = scale * ((double)i + 0.5);
        int64_t start = (int64_t)(centre - support + 0.5), end = (int64_t)(centre + support + 0.5);
        start = start < 0 ? 0 : start;
        end = end > in ? in : end;
        const int used = (int)(end - start);
        largest = weigh_one(real + at * axis->room, used, axis->room, (int)start, centre, inverse, largest);
        axis->start[at] = (int)start;
        axis->used[at] = used;
        axis->taps = used > axis->taps ? used : axis->taps;
    }
    _mm256_storeu_pd(most, largest);
    for (int i = 1; i < GROUP; i++) most[0] = most[i] > most[0] ? most[i] : most[0];
    for (axis->shift = 0; axis->shift < 22; axis->shift++)
        if ((int)(0.5 + most[0] * (1 << (axis->shift + 1))) >= 1 << 15) break;
    round_weights(real, axis->weight, weights, axis->shift);
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

/* Four pixels, each as the sums of eight rows, colours side by side: -> eight rows of twelve bytes at `out`
   (and four more written behind them). In each half of `pixel` lie every second row's four bytes. */
AVX2 static void put_four(const __m256i pixel[4], uint8_t *out, size_t stride) {
    const __m256i close = _mm256_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1,
                                           0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const __m256i a = _mm256_unpacklo_epi32(pixel[0], pixel[1]);
    const __m256i b = _mm256_unpackhi_epi32(pixel[0], pixel[1]);
    const __m256i c = _mm256_unpacklo_epi32(pixel[2], pixel[3]);
    const __m256i d = _mm256_unpackhi_epi32(pixel[2], pixel[3]);
    const __m256i rows[4] = {_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c),
                             _mm256_unpacklo_epi64(b, d), _mm256_unpackhi_epi64(b, d)};
    for (int i = 0; i < 4; i++, out += 2 * stride) {
        const __m256i both = _mm256_shuffle_epi8(rows[i], close);
        _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(both));
        _mm_storeu_si128((__m128i *)(out + stride), _mm256_extracti128_si256(both, 1));
    }
}

/* ROWS rows at `in` (four bytes a pixel) -> ROWS rows of `width` pixels at `out` (three bytes a pixel; up to
   GROUP pixels more are written behind the last). */
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
    for (int64_t x = 0; x < width; x += GROUP, out += 3 * GROUP) {
        __m256i pixel[GROUP];
        for (int i = 0; i < GROUP; i++, weight += own.room) {
            const uint8_t *at = in + 4 * (size_t)own.start[x + i];
            __m256i sum[ROWS / 2] = {half, half, half, half};
            int j = 0;
            for (; j + 2 < own.taps; j += GROUP, at += 4 * GROUP) {
                const __m256i first = pair(weight + j), second = pair(weight + j + 2);
                const uint8_t *row = at;
#pragma GCC unroll 4
                for (int k = 0; k < ROWS / 2; k++, row += 2 * in_stride) {
                    const __m256i given = two_rows(row, in_stride);
                    const __m256i near = _mm256_madd_epi16(_mm256_shuffle_epi8(given, left), first);
                    const __m256i next = _mm256_madd_epi16(_mm256_shuffle_epi8(given, right), second);
                    sum[k] = _mm256_add_epi32(sum[k], _mm256_add_epi32(near, next));
                }
            }
            if (j < own.taps) { /* one or two are left */
                const __m256i first = pair(weight + j);
#pragma GCC unroll 4
                for (int k = 0; k < ROWS / 2; k++, at += 2 * in_stride) {
                    const __m256i given = _mm256_shuffle_epi8(two_rows(at, in_stride), left);
                    sum[k] = _mm256_add_epi32(sum[k], _mm256_madd_epi16(given, first));
                }
            }
            for (int k = 0; k < ROWS / 2; k++) sum[k] = _mm256_sra_epi32(sum[k], shift);
            const __m256i upper = _mm256_packs_epi32(sum[0], sum[1]);
            pixel[i] = _mm256_packus_epi16(upper, _mm256_packs_epi32(sum[2], sum[3]));
        }
        put_four(pixel, out, out_stride);
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
