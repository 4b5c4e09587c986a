/* Layers and heads begin with it. */
#include "model.h"
#include <math.h>

void norm(float *values, const float *weight, int length, float epsilon, bf16 *to) {
    __m512 squares = _mm512_setzero_ps();
    for (int at = 0; at < length; at += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(mask_of(length - at), values + at);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    const __m512 factor = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(squares) / length + epsilon));
    for (int at = 0; at < length; at += 16) {
        const __mmask16 mask = mask_of(length - at);
        const __m512 v = _mm512_maskz_loadu_ps(mask, values + at), w = _mm512_maskz_loadu_ps(mask, weight + at);
        const __m512 result = _mm512_mul_ps(_mm512_mul_ps(v, factor), w);
        if (to) round_16(result, to + at, mask);
        else _mm512_mask_storeu_ps(values + at, mask, result);
    }
}
