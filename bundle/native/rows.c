/* What is done to one row of float32 numbers. */
#include "kernels.h"
#include <math.h>

#define MIDDLE 128 /* stands for nought where numbers have a sign */

static inline __m128i bytes(__m512 scaled, int32_t zero)
{
    __m512i found = _mm512_add_epi32(_mm512_cvtps_epi32(scaled), _mm512_set1_epi32(zero));
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(found, _mm512_setzero_si512()));
}

/* (x - mean) / deviation * weight + bias (Ba et al. 2016), rounded around MIDDLE. */
void norm_round(const Norm *norm, float epsilon, int32_t size, const float *x, uint8_t *rounded)
{
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int32_t at = 0; at < size; at += LANES)
        sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + at));
    __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / size);
    for (int32_t at = 0; at < size; at += LANES) {
        __m512 apart = _mm512_sub_ps(_mm512_loadu_ps(x + at), mean);
        squares = _mm512_fmadd_ps(apart, apart, squares);
    }
    __m512 over = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(squares) / size + epsilon));
    __m512 inverse = _mm512_set1_ps(norm->inverse);
    for (int32_t at = 0; at < size; at += LANES) {
        __m512 apart = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + at), mean), over);
        __m512 normed = _mm512_fmadd_ps(apart, _mm512_loadu_ps(norm->weight + at), _mm512_loadu_ps(norm->bias + at));
        _mm_storeu_si128((__m128i *)(rounded + at), bytes(_mm512_mul_ps(normed, inverse), MIDDLE));
    }
}

static inline float not_nought(float largest)
{
    return largest > 1.17549435e-38f ? largest : 1.17549435e-38f; /* a row of zeros stays one */
}

static void round_by(int32_t size, const float *x, float inverse, int32_t zero, uint8_t *rounded)
{
    __m512 times = _mm512_set1_ps(inverse);
    for (int32_t at = 0; at < size; at += LANES)
        _mm_storeu_si128((__m128i *)(rounded + at), bytes(_mm512_mul_ps(_mm512_loadu_ps(x + at), times), zero));
}

/* A row whose largest number is known beforehand, rounded around MIDDLE. */
void round_known(int32_t size, const float *x, float inverse, uint8_t *rounded)
{
    round_by(size, x, inverse, MIDDLE, rounded);
}

/* A row divided by its own largest number, which is returned, in 127 steps either way around MIDDLE. */
float round_signed(int32_t size, const float *x, uint8_t *rounded)
{
    __m512 most = _mm512_setzero_ps();
    for (int32_t at = 0; at < size; at += LANES)
        most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(x + at)));
    float largest = not_nought(_mm512_reduce_max_ps(most));
    round_by(size, x, 127.0f / largest, MIDDLE, rounded);
    return largest;
}

/* The same in 255 steps, for a row without sign whose largest number is known. */
float round_positive(int32_t size, const float *x, float largest, uint8_t *rounded)
{
    largest = not_nought(largest);
    round_by(size, x, 255.0f / largest, 0, rounded);
    return largest;
}

/* x (1 + erf(x / sqrt 2)) / 2 (Hendrycks and Gimpel 2016), erf as in Abramowitz and Stegun 7.1.26. */
void gelu(int32_t size, float *x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    for (int32_t at = 0; at < size; at += LANES) {
        __m512 each = _mm512_loadu_ps(x + at);
        __m512 z = _mm512_mul_ps(each, _mm512_set1_ps(0.70710678f)), size_of = _mm512_abs_ps(z);
        __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(size_of, _mm512_set1_ps(0.3275911f), one));
        __m512 sum = _mm512_set1_ps(1.061405429f);
        sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-1.453152027f));
        sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(1.421413741f));
        sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-0.284496736f));
        sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.254829592f));
        __m512 far = exponential(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(z, z)));
        __m512 erf = _mm512_fnmadd_ps(_mm512_mul_ps(sum, t), far, one);
        __mmask16 below = _mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_LT_OQ);
        erf = _mm512_mask_sub_ps(erf, below, _mm512_setzero_ps(), erf);
        _mm512_storeu_ps(x + at, _mm512_mul_ps(_mm512_mul_ps(each, _mm512_set1_ps(0.5f)), _mm512_add_ps(one, erf)));
    }
}

/* The `best` highest log-probabilities, highest first, and their ids; of equal ones the smaller id first.
 * `peaks` are the highest logits of each lane. Where logits are no numbers there are fewer, and the rest is minus
 * infinity.
 */
void best_of(int32_t count, const float *logits, __m512 peaks, int32_t best, float *scores, int64_t *ids)
{
    int32_t held = 0;
    /* sixteen numbers are at least as high as the lowest peak */
    float highest = _mm512_reduce_max_ps(peaks), least = best <= LANES ? _mm512_reduce_min_ps(peaks) : -INFINITY;
    __m512 most = _mm512_set1_ps(highest), sum = _mm512_setzero_ps();
    for (int32_t at = 0; at < count; at += LANES) {
        __mmask16 mask = first_lanes(count - at);
        __m512 each = _mm512_maskz_loadu_ps(mask, logits + at);
        sum = _mm512_mask_add_ps(sum, mask, sum, exponential(_mm512_sub_ps(each, most)));
        __m512 bar = _mm512_set1_ps(least);
        mask &= held < best ? _mm512_cmp_ps_mask(each, bar, _CMP_GE_OQ) : _mm512_cmp_ps_mask(each, bar, _CMP_GT_OQ);
        for (; mask; mask &= mask - 1) {
            int32_t id = at + __builtin_ctz(mask);
            float score = logits[id];
            if (held == best && score <= least)
                continue;
            int32_t place = held < best ? held++ : best - 1;
            for (; place && scores[place - 1] < score; place--) {
                scores[place] = scores[place - 1];
                ids[place] = ids[place - 1];
            }
            scores[place] = score;
            ids[place] = id;
            if (held == best)
                least = scores[best - 1];
        }
    }
    float rest = logf(_mm512_reduce_add_ps(sum));
    for (int32_t place = 0; place < best; place++) {
        scores[place] = place < held ? scores[place] - highest - rest : -INFINITY;
        ids[place] = place < held ? ids[place] : 0;
    }
}
