/* A JPEG -> its views, in one call: optional speed, which never changes a bit.

   In: the encoded file and, for each view, a box of the decoded image and a place of any size. Out: 1 and the
   box resampled into its place; or 0, whatever the reason, and the caller takes the slower path, which also
   judges the file. The bits are those of a whole decode by libjpeg-turbo (accurate inverse DCT, smooth
   upsampling of colour) and of torch's antialiased bicubic filter for uint8; tests compare with both.

   The work goes in strips of STRIP rows, so that the decoded image never exists as a whole: libjpeg writes
   rows of four bytes a pixel, each view filters across the rows of its box into `rows` (three bytes a
   pixel), and when the file has ended each view filters down. Needs libjpeg-turbo >= 2.1 and AVX2. */

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h> /* jpeglib.h needs it */

#include <jpeglib.h>

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "needs libjpeg-turbo 2.1 or later"
#endif

#include "filter.h"

#define STRIP 16 /* rows decoded before they are filtered; they stay in the first cache */
#define VIEWS 64

struct job {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    jmp_buf failed;
    struct plan plans[VIEWS];
    uint8_t *strip;
    size_t stride;
    JDIMENSION first_column;
};

/* ---- decoding ---- */

static void leave(j_common_ptr jpeg) { longjmp(((struct job *)jpeg)->failed, 1); }

/* Warnings (a negative level: data that end early, that make no sense) are failures; the rest is chatter. */
static void hear(j_common_ptr jpeg, int level) {
    if (level < 0) leave(jpeg);
}

/* What `ssl-retina shard` and cameras write: one baseline scan, grey or YCbCr at 4:4:4, 4:2:2 or 4:2:0. */
static int usual(const struct job *job) {
    const struct jpeg_decompress_struct *jpeg = &job->jpeg;
    const jpeg_component_info *part = jpeg->comp_info;
    if (jpeg->progressive_mode || jpeg->arith_code || jpeg->data_precision != 8) return 0;
    if (jpeg_has_multiple_scans((j_decompress_ptr)jpeg)) return 0;
    const int across = part->h_samp_factor, down = part->v_samp_factor;
    if (jpeg->num_components == 1) return jpeg->jpeg_color_space == JCS_GRAYSCALE && across == 1 && down == 1;
    if (jpeg->num_components != 3 || jpeg->jpeg_color_space != JCS_YCbCr) return 0;
    for (int i = 1; i < 3; i++)
        if (part[i].h_samp_factor != 1 || part[i].v_samp_factor != 1) return 0;
    return across <= 2 && down <= across;
}

/* Memory and weights of all views; 0 where a box is not in the image or there is no memory. */
static int prepare(struct job *job, const struct view *views, int64_t number) {
    size_t size = 0;
    int most = 0;
    for (const struct view *v = views; v < views + number; v++) {
        const int64_t wide = v->right - v->left, tall = v->bottom - v->top;
        if (v->left < 0 || v->top < 0 || wide < 1 || tall < 1 || v->width < 1 || v->height < 1) return 0;
        if (v->right > job->jpeg.output_width || v->bottom > job->jpeg.output_height) return 0;
        if (v->width > JPEG_MAX_DIMENSION || v->height > JPEG_MAX_DIMENSION) return 0;
        struct plan *plan = job->plans + (v - views);
        plan->stride = (3 * grouped(v->width) + 4 + 31) / 32 * 32; /* filter_down reads 32 bytes at once */
        size += axis_size(wide, v->width) + axis_size(tall, v->height);
        size += padded((tall + ROWS) * plan->stride);
        if (most_taps(wide, v->width) > most) most = most_taps(wide, v->width);
    }
    job->stride = 4 * ((size_t)job->jpeg.output_width + most); /* weights of 0 reach beyond the last pixel */
    const size_t strip = (STRIP + ROWS) * job->stride;
    if (!reserve(size + padded(strip))) return 0;
    job->strip = take(strip);
    for (const struct view *v = views; v < views + number; v++) {
        struct plan *plan = job->plans + (v - views);
        weigh(&plan->across, v->right - v->left, v->width, v->flipped != 0);
        weigh(&plan->down, v->bottom - v->top, v->height, 0);
        plan->rows = take((v->bottom - v->top + ROWS) * plan->stride);
    }
    return 1;
}

/* Leave out columns that no view needs, and rows above; gives the first row that none needs below. libjpeg
   smooths colour from one sample to the next, so that a column at the border of what it decodes is another
   than in the whole image: one sample of colour more at each side. Of rows it takes care itself. */
static JDIMENSION narrow(struct job *job, const struct view *views, int64_t number) {
    struct jpeg_decompress_struct *jpeg = &job->jpeg;
    const JDIMENSION border = jpeg->max_h_samp_factor;
    int64_t left = jpeg->output_width, top = jpeg->output_height, right = 0, bottom = 0;
    for (const struct view *v = views; v < views + number; v++) {
        left = v->left < left ? v->left : left;
        right = v->right > right ? v->right : right;
        top = v->top < top ? v->top : top;
        bottom = v->bottom > bottom ? v->bottom : bottom;
    }
    left = left > border ? left - border : 0;
    right = right + border < jpeg->output_width ? right + border : jpeg->output_width;
    job->first_column = (JDIMENSION)left;
    JDIMENSION wide = (JDIMENSION)(right - left);
    if (wide < jpeg->output_width) jpeg_crop_scanline(jpeg, &job->first_column, &wide);
    if (top > 0) jpeg_skip_scanlines(jpeg, (JDIMENSION)top);
    return (JDIMENSION)bottom;
}

/* The strip holds rows `first` to `end`. */
static void filter_strip(struct job *job, int64_t first, int64_t end, const struct view *views,
                         int64_t number) {
    for (int64_t i = 0; i < number; i++) {
        const struct view *v = views + i;
        const struct plan *plan = job->plans + i;
        const int64_t stop = v->bottom < end ? v->bottom : end;
        /* what a last group takes too much is written anew with the next strip, or is never looked at */
        for (int64_t y = v->top > first ? v->top : first; y < stop; y += ROWS) {
            const uint8_t *in = job->strip + (y - first) * job->stride + 4 * (v->left - job->first_column);
            uint8_t *out = plan->rows + (y - v->top) * plan->stride;
            filter_across(&plan->across, in, job->stride, out, plan->stride, v->width);
        }
    }
}

static void decode(struct job *job, const struct view *views, int64_t number) {
    struct jpeg_decompress_struct *jpeg = &job->jpeg;
    const JDIMENSION bottom = narrow(job, views, number);
    JSAMPROW rows[STRIP];
    for (int i = 0; i < STRIP; i++) rows[i] = job->strip + i * job->stride;
    while (jpeg->output_scanline < bottom) {
        const JDIMENSION first = jpeg->output_scanline;
        const JDIMENSION wanted = bottom - first < STRIP ? bottom - first : STRIP;
        for (JDIMENSION count = 0; count < wanted;)
            count += jpeg_read_scanlines(jpeg, rows + count, wanted - count);
        filter_strip(job, first, jpeg->output_scanline, views, number);
    }
    /* the rest is read all the same, without its pixels: a file that is damaged there is a damaged file */
    if (jpeg->output_scanline + 1 < jpeg->output_height)
        jpeg_skip_scanlines(jpeg, jpeg->output_height - 1 - jpeg->output_scanline);
    while (jpeg->output_scanline < jpeg->output_height) jpeg_read_scanlines(jpeg, rows, 1);
    jpeg_finish_decompress(jpeg);
}

int retina_usable(void) { return __builtin_cpu_supports("avx2") != 0; }

/* Decode at 1 / share (1, 2, 4, 8) of the size and draw; `width` and `height` are what the file must have. */
int retina_draw_1(const uint8_t *content, size_t size, int64_t width, int64_t height, int64_t share,
                  const struct view *views, int64_t number) {
    struct job job;
    volatile int done = 0;
    if (number < 1 || number > VIEWS) return 0;
    memset(&job.jpeg, 0, sizeof job.jpeg);
    job.jpeg.err = jpeg_std_error(&job.errors);
    job.errors.error_exit = leave;
    job.errors.emit_message = hear;
    if (!setjmp(job.failed)) {
        jpeg_create_decompress(&job.jpeg);
        jpeg_mem_src(&job.jpeg, content, size);
        jpeg_read_header(&job.jpeg, TRUE);
        if (job.jpeg.image_width == width && job.jpeg.image_height == height && usual(&job)) {
            job.jpeg.out_color_space = JCS_EXT_RGBX;
            job.jpeg.scale_num = 1;
            job.jpeg.scale_denom = (unsigned int)share;
            jpeg_start_decompress(&job.jpeg);
            if (prepare(&job, views, number)) {
                decode(&job, views, number);
                for (int64_t i = 0; i < number; i++) filter_down(job.plans + i, views + i);
                done = 1;
            }
        }
    }
    jpeg_destroy_decompress(&job.jpeg);
    return done;
}
