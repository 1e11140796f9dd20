/* One head of one row: scores, their softmax, and the mean of the values that they weigh. */
#include "kernels.h"
#include <math.h>

/* The sums of sixteen registers, one in each lane: halves are added crosswise until one register is left. */
INLINE __m512 sums_of(__m512 *x)
{
    __m512 pairs[8], fours[4], eights[2];
#pragma GCC unroll 8
    for (int32_t i = 0; i < 8; i++)
        pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]), _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]));
#pragma GCC unroll 4
    for (int32_t i = 0; i < 4; i++) {
        __m512d one = _mm512_castps_pd(pairs[2 * i]), other = _mm512_castps_pd(pairs[2 * i + 1]);
        fours[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(one, other)),
                                 _mm512_castpd_ps(_mm512_unpackhi_pd(one, other)));
    }
#pragma GCC unroll 2
    for (int32_t i = 0; i < 2; i++)
        eights[i] = _mm512_add_ps(_mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0x88),
                                  _mm512_shuffle_f32x4(fours[2 * i], fours[2 * i + 1], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(eights[0], eights[1], 0x88),
                         _mm512_shuffle_f32x4(eights[0], eights[1], 0xdd));
}

/* Sixteen scores: query times keys `stride` apart, of which `count` are real; `parts` registers make a key. */
INLINE __m512 scores_of(const int32_t parts, const float *query, const float *keys, int64_t stride, int32_t count)
{
    __m512 products[LANES];
#pragma GCC unroll 16
    for (int32_t i = 0; i < LANES; i++) {
        /* beyond the last the last once more, whose sum nobody reads */
        const float *key = keys + (i < count ? i : count - 1) * stride;
        products[i] = _mm512_mul_ps(_mm512_loadu_ps(query), _mm512_loadu_ps(key));
        for (int32_t part = 1; part < parts; part++)
            products[i] = _mm512_fmadd_ps(_mm512_loadu_ps(query + part * LANES), _mm512_loadu_ps(key + part * LANES),
                                          products[i]);
    }
    return sums_of(products);
}

/* Sixteen scores: query times keys [size][source], which are turned. */
INLINE __m512 scores_of_turned(int32_t size, const float *query, const float *keys, int32_t source, __mmask16 mask)
{
    __m512 sums[4];
#pragma GCC unroll 4
    for (int32_t i = 0; i < 4; i++)
        sums[i] = _mm512_setzero_ps();
    for (int32_t place = 0; place < size; place += 4)
#pragma GCC unroll 4
        for (int32_t i = 0; i < 4; i++)
            sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(query[place + i]),
                                      _mm512_maskz_loadu_ps(mask, keys + (int64_t)(place + i) * source), sums[i]);
    return _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
}

/* Softmax in place, over `groups` registers' worth of scores, whose lanes beyond the last are minus infinity. */
INLINE void softmax(const int32_t groups, float *scores)
{
    __m512 highest = _mm512_load_ps(scores), sum = _mm512_setzero_ps();
    for (int32_t group = 1; group < groups; group++)
        highest = _mm512_max_ps(highest, _mm512_load_ps(scores + group * LANES));
    highest = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
    for (int32_t group = 0; group < groups; group++) {
        __m512 each = exponential(_mm512_sub_ps(_mm512_load_ps(scores + group * LANES), highest));
        sum = _mm512_add_ps(sum, each);
        _mm512_store_ps(scores + group * LANES, each);
    }
    __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    for (int32_t group = 0; group < groups; group++)
        _mm512_store_ps(scores + group * LANES, _mm512_mul_ps(_mm512_load_ps(scores + group * LANES), share));
}

/* The sum of values `stride` apart by their weights: those of even and of odd places apart, since each waits for the
 * one before. */
INLINE void mean_of(const int32_t parts, const float *weights, const float *values, int64_t stride, int32_t count,
                    float *mixed)
{
    __m512 even[8], odd[8];
#pragma GCC unroll 8
    for (int32_t part = 0; part < parts; part++)
        even[part] = odd[part] = _mm512_setzero_ps();
    for (int32_t i = 0; i < count - 1; i += 2, values += 2 * stride) {
        __m512 weight = _mm512_set1_ps(weights[i]), next = _mm512_set1_ps(weights[i + 1]);
#pragma GCC unroll 8
        for (int32_t part = 0; part < parts; part++) {
            even[part] = _mm512_fmadd_ps(weight, _mm512_loadu_ps(values + part * LANES), even[part]);
            odd[part] = _mm512_fmadd_ps(next, _mm512_loadu_ps(values + stride + part * LANES), odd[part]);
        }
    }
    if (count % 2) {
        __m512 weight = _mm512_set1_ps(weights[count - 1]);
#pragma GCC unroll 8
        for (int32_t part = 0; part < parts; part++)
            even[part] = _mm512_fmadd_ps(weight, _mm512_loadu_ps(values + part * LANES), even[part]);
    }
#pragma GCC unroll 8
    for (int32_t part = 0; part < parts; part++)
        _mm512_storeu_ps(mixed + part * LANES, _mm512_add_ps(even[part], odd[part]));
}

INLINE void softmax_of(int32_t count, float *scores)
{
    int32_t groups = (count + LANES - 1) / LANES;
    /* the usual lengths, whose scores then stay in registers */
    switch (groups) {
    case 1: softmax(1, scores); break;
    case 2: softmax(2, scores); break;
    case 3: softmax(3, scores); break;
    case 4: softmax(4, scores); break;
    default: softmax(groups, scores);
    }
}

INLINE void store_scores(float *scores, int32_t count, __m512 found)
{
    _mm512_store_ps(scores, _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), first_lanes(count), found));
}

INLINE void near(const int32_t parts, const float *query, const float *keys, const float *values, int64_t stride,
                 int32_t count, float *scores, float *mixed)
{
    const __m512 scale = _mm512_set1_ps(1.0f / __builtin_sqrtf((float)(parts * LANES)));
    for (int32_t first = 0; first < count; first += LANES)
        store_scores(scores + first, count - first,
                     _mm512_mul_ps(scores_of(parts, query, keys + first * stride, stride, count - first), scale));
    softmax_of(count, scores);
    mean_of(parts, scores, values, stride, count, mixed);
}

INLINE void far(const int32_t parts, const float *query, const float *keys, const float *values, int32_t source,
                int32_t count, float *scores, float *mixed)
{
    for (int32_t first = 0; first < count; first += LANES)
        store_scores(scores + first, count - first,
                     scores_of_turned(parts * LANES, query, keys + first, source, first_lanes(count - first)));
    softmax_of(count, scores);
    mean_of(parts, scores, values, parts * LANES, count, mixed);
}

/* The registers of a head as a constant: the sizes that bundle/native/network.py lets in. */
#define FOR_SIZE(size, call)                                                                                           \
    switch ((size) / LANES) {                                                                                          \
    case 1: call(1); break;                                                                                            \
    case 2: call(2); break;                                                                                            \
    case 3: call(3); break;                                                                                            \
    case 4: call(4); break;                                                                                            \
    case 6: call(6); break;                                                                                            \
    case 8: call(8); break;                                                                                            \
    }

/* Over tokens of the same text: keys and values begin `stride` numbers apart. Scores, aligned, has room for `count`
 * rounded up to whole registers, and holds the weights afterwards. */
void attend_near(const float *query, const float *keys, const float *values, int64_t stride, int32_t count,
                 int32_t size, float *scores, float *mixed)
{
#define CALL(parts) near(parts, query, keys, values, stride, count, scores, mixed)
    FOR_SIZE(size, CALL)
#undef CALL
}

/* Over a source: keys [size][source], turned and scaled, and values [source][size], of which `count` are real. */
void attend_source(const float *query, const float *keys, const float *values, int32_t source, int32_t count,
                   int32_t size, float *scores, float *mixed)
{
#define CALL(parts) far(parts, query, keys, values, source, count, scores, mixed)
    FOR_SIZE(size, CALL)
#undef CALL
}
