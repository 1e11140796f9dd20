/* Rows of uint8 times matrices of int8: exact sums in int32, by AVX-512 VNNI (vpdpbusd). */
#include "kernels.h"

#define AHEAD 2048 /* bytes of the matrix that are on their way from the third cache: it is what one row waits for */
#define MOST 6 /* rows at once: their sums, four registers each, and a row of the panel fill the register file */

static inline int32_t panels(int32_t out)
{
    return (out + PANEL - 1) / PANEL;
}

void voisin_pack(const int8_t *weight, int64_t in_stride, int64_t out_stride, int32_t in, int32_t out,
                 int32_t zero, int8_t *packed, int32_t *offset)
{
    for (int32_t panel = 0; panel < panels(out); panel++)
        for (int32_t group = 0; group < in / 4; group++)
            for (int32_t column = 0; column < PANEL; column++) {
                int32_t channel = panel * PANEL + column;
                for (int32_t place = 0; place < 4; place++) {
                    int64_t from = (group * 4 + place) * in_stride + channel * out_stride;
                    *packed++ = channel < out ? weight[from] : 0;
                }
            }
    for (int32_t channel = 0; channel < panels(out) * PANEL; channel++) {
        int32_t sum = 0;
        if (channel < out)
            for (int32_t place = 0; place < in; place++)
                sum += weight[place * in_stride + channel * out_stride];
        offset[channel] = -zero * sum;
    }
}

/* Four uint8 of a row, in every lane. */
INLINE __m512i spread(const uint8_t *x)
{
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

/* What becomes of the sums of one row and one panel. */
INLINE void finish(const Product *product, int32_t panel, const __m512i *sums, float largest, enum Then then,
                   float *y, float *peaks)
{
    __m512 times = _mm512_set1_ps(largest);
    __m512 peak = peaks ? _mm512_loadu_ps(peaks) : times;
    for (int32_t quarter = 0; quarter < 4; quarter++) {
        int32_t first = panel * PANEL + quarter * LANES, left = product->out - first;
        if (left <= 0)
            break;
        __mmask16 mask = first_lanes(left);
        __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[quarter]), _mm512_loadu_ps(product->scales + first));
        __m512 found = _mm512_fmadd_ps(scaled, times, _mm512_loadu_ps(product->bias + first));
        if (then == ADD)
            found = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y + first), found);
        if (then == RELU)
            found = _mm512_max_ps(found, _mm512_setzero_ps());
        if (peaks)
            peak = _mm512_mask_max_ps(peak, mask, peak, found);
        _mm512_mask_storeu_ps(y + first, mask, found);
    }
    if (peaks)
        _mm512_storeu_ps(peaks, peak);
}

/* `count` rows and one panel; count is a constant where this is used, so that all sums lie in registers. */
INLINE void tile(const int32_t count, const Product *product, int32_t panel, const uint8_t *x,
                 const float *largest, enum Then then, float *y, float *peaks)
{
    const int32_t in = product->in, out = product->out;
    const int8_t *packed = product->packed + (int64_t)panel * in * PANEL;
    __m512i sums[MOST][4];
#pragma GCC unroll 6
    for (int32_t row = 0; row < count; row++)
#pragma GCC unroll 4
        for (int32_t quarter = 0; quarter < 4; quarter++)
            sums[row][quarter] = _mm512_loadu_si512(product->offset + panel * PANEL + quarter * LANES);
    for (int32_t place = 0; place < in; place += 4, packed += 4 * PANEL) {
        __m512i weights[4];
#pragma GCC unroll 4
        for (int32_t quarter = 0; quarter < 4; quarter++)
            weights[quarter] = _mm512_loadu_si512(packed + quarter * 64);
#pragma GCC unroll 6
        for (int32_t row = 0; row < count; row++) {
            __m512i four = spread(x + (int64_t)row * in + place);
#pragma GCC unroll 4
            for (int32_t quarter = 0; quarter < 4; quarter++)
                sums[row][quarter] = _mm512_dpbusd_epi32(sums[row][quarter], four, weights[quarter]);
        }
    }
#pragma GCC unroll 6
    for (int32_t row = 0; row < count; row++)
        finish(product, panel, sums[row], largest ? largest[row] : 1.0f, then, y + (int64_t)row * out,
               peaks ? peaks + row * LANES : 0);
}

/* One row alone: the sums of even and odd groups apart, since each waits for the one before. */
INLINE void tile_of_one(const Product *product, int32_t panel, const uint8_t *x, const float *largest,
                        enum Then then, float *y, float *peaks)
{
    const int8_t *packed = product->packed + (int64_t)panel * product->in * PANEL;
    __m512i even[4], odd[4];
#pragma GCC unroll 4
    for (int32_t quarter = 0; quarter < 4; quarter++) {
        even[quarter] = _mm512_loadu_si512(product->offset + panel * PANEL + quarter * LANES);
        odd[quarter] = _mm512_setzero_si512();
    }
    for (int32_t place = 0; place < product->in; place += 8, packed += 8 * PANEL) {
        __m512i four = spread(x + place), next = spread(x + place + 4);
#pragma GCC unroll 8
        for (int32_t line = 0; line < 8; line++)
            _mm_prefetch((const char *)packed + AHEAD + line * 64, _MM_HINT_T0);
#pragma GCC unroll 4
        for (int32_t quarter = 0; quarter < 4; quarter++) {
            even[quarter] = _mm512_dpbusd_epi32(even[quarter], four, _mm512_loadu_si512(packed + quarter * 64));
            odd[quarter] =
                _mm512_dpbusd_epi32(odd[quarter], next, _mm512_loadu_si512(packed + 4 * PANEL + quarter * 64));
        }
    }
#pragma GCC unroll 4
    for (int32_t quarter = 0; quarter < 4; quarter++)
        even[quarter] = _mm512_add_epi32(even[quarter], odd[quarter]);
    finish(product, panel, even, largest ? *largest : 1.0f, then, y, peaks);
}

/* x [rows][in] times the matrix, times `largest` [rows] where it is given, plus the bias: into y [rows][out].
 * Peaks [rows][LANES], where given, keep the largest of each lane and what the caller put there. */
void multiply(const Product *product, int32_t rows, const uint8_t *x, const float *largest, enum Then then,
              float *y, float *peaks)
{
    for (int32_t panel = 0; panel < panels(product->out); panel++)
        for (int32_t row = 0; row < rows;) {
            int32_t left = rows - row;
            const uint8_t *from = x + (int64_t)row * product->in;
            const float *each = largest ? largest + row : 0;
            float *to = y + (int64_t)row * product->out, *peak = peaks ? peaks + row * LANES : 0;
#define TILE(count) tile(count, product, panel, from, each, then, to, peak)
            switch (left) {
            case 1: tile_of_one(product, panel, from, each, then, to, peak); row += 1; break;
            case 2: TILE(2); row += 2; break;
            case 3: TILE(3); row += 3; break;
            case 4: TILE(4); row += 4; break;
            case 5: TILE(5); row += 5; break;
            default: TILE(MOST); row += MOST;
            }
#undef TILE
        }
}
