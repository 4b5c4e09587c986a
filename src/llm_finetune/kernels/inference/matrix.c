/* Products of a matrix of bf16 or of codes with a few rows of bf16, summed in fp32.
 *
 * A code becomes bf16 by a look-up: four bits choose one of 16 values that lie in a register. Codes of 8 bits
 * are two of 4, each with values of its own. So a code costs a shift and a look-up for 32 weights, and the
 * product is the processor's own for bf16 (AVX512-BF16).
 */
#include "native.h"

INLINE __m512i look_up_table(int factor, int symmetric_zero_point) {
    bf16 values[32];
    for (int code = 0; code < 32; code++) {
        float value = (float)(factor * (code % 16) - symmetric_zero_point); /* exact in bf16: whole and below 256 */
        uint32_t bits;
        memcpy(&bits, &value, 4);
        values[code] = bits >> 16;
    }
    return _mm512_loadu_si512(values);
}

INLINE __m512bh pair(const bf16 *inputs) {
    int32_t both;
    memcpy(&both, inputs, 4);
    return (__m512bh)_mm512_set1_epi32(both);
}

/* planes: look-ups a code. count: inputs; both are constants where this is called. */
INLINE void codes_block(const Matrix *matrix, int block, const bf16 *inputs, const float *sums,
                        const int count, const int planes, float *outputs) {
    const int chunk = 8 / planes, stride = PADDED(matrix->columns), groups = groups_of(matrix);
    const int chunks = (matrix->columns + chunk - 1) / chunk, in_group = matrix->group / chunk;
    const int chains = count == 1 ? 4 : count == 2 ? 2 : 1;
    const int symmetric_zero_point = matrix->zero_points ? 0 : matrix->symmetric_zero_point;
    const __m512i low = look_up_table(1, planes == 1 ? symmetric_zero_point : 0), high = look_up_table(16, symmetric_zero_point);
    const uint8_t *codes = (const uint8_t *)matrix->weights + (size_t)block * chunks * 64;
    const size_t first = (size_t)block * groups * BLOCK;
    __m512 total[8], part[8][4];
    for (int n = 0; n < count; n++) total[n] = _mm512_setzero_ps();
    for (int group = 0, at = 0; group < groups; group++) {
        const int end = at + in_group < chunks ? at + in_group : chunks;
        for (int n = 0; n < count; n++)
            for (int chain = 0; chain < chains; chain++) part[n][chain] = _mm512_setzero_ps();
        for (; at < end; at++) {
            const __m512i four = _mm512_loadu_si512(codes + (size_t)at * 64);
            _mm_prefetch((const char *)codes + (size_t)at * 64 + 2048, _MM_HINT_T0);
#pragma GCC unroll 4
            for (int t = 0; t < 4; t++) {
                /* The look-up takes 5 bits of 16, of which the fifth is the next code's: both halves of a
                 * table are the same. */
                const __m512i table = planes == 1 || t % 2 == 0 ? low : high;
                const __m512bh weights =
                    (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(four, 4 * t), table);
                const bf16 *two = inputs + at * chunk + 2 * (t / planes);
#pragma GCC unroll 8
                for (int n = 0; n < count; n++)
                    part[n][t % chains] = _mm512_dpbf16_ps(part[n][t % chains], weights, pair(two + n * stride));
            }
        }
        const size_t scale_at = first + (size_t)group * BLOCK;
        const __m512 scale = planes == 1 ? widened((const bf16 *)matrix->scales + scale_at)
                                         : _mm512_loadu_ps((const float *)matrix->scales + scale_at);
        for (int n = 0; n < count; n++) {
            __m512 sum = part[n][0];
            for (int chain = 1; chain < chains; chain++) sum = _mm512_add_ps(sum, part[n][chain]);
            if (matrix->zero_points) {
                const __m128i zero_points = _mm_loadu_si128((const __m128i *)(matrix->zero_points + scale_at));
                const __m512 zero = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(zero_points));
                sum = _mm512_fnmadd_ps(zero, _mm512_set1_ps(sums[n * groups + group]), sum);
            }
            total[n] = _mm512_fmadd_ps(sum, scale, total[n]);
        }
    }
    for (int n = 0; n < count; n++) _mm512_storeu_ps(outputs + n * BLOCK, total[n]);
}

/* The sum of each of 4 vectors. */
INLINE __m128 four_sums(const __m512 *v) {
    const __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
    const __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
    const __m512 c = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
    const __m256 d = _mm256_add_ps(_mm512_castps512_ps256(c), _mm512_extractf32x8_ps(c, 1));
    return _mm_add_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1));
}

/* Four rows at once, so that sums do not wait for each other and an input is loaded for all of them.
 * count: inputs, 4 at most. */
INLINE void plain_block(const Matrix *matrix, int block, const bf16 *inputs, const int count, float *outputs) {
    const int columns = matrix->columns, stride = PADDED(columns);
    for (int row = 0; row < BLOCK; row += 4) {
        const bf16 *rows[4];
        __m512 sums[4][4];
        for (int r = 0; r < 4; r++) {
            int real = block * BLOCK + row + r;
            if (real >= matrix->rows) real = matrix->rows - 1;
            rows[r] = (const bf16 *)matrix->weights + (size_t)real * columns;
            for (int n = 0; n < count; n++) sums[n][r] = _mm512_setzero_ps();
        }
        for (int at = 0; at < columns; at += 32) {
            const __mmask32 mask = mask_of_32(columns - at);
            __m512bh weights[4];
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                weights[r] = (__m512bh)_mm512_maskz_loadu_epi16(mask, rows[r] + at);
                /* Of the next four rows, one cache line after another as they lie in memory. */
                _mm_prefetch((const char *)(rows[0] + 4 * (size_t)columns + 4 * at + 32 * r), _MM_HINT_T1);
            }
#pragma GCC unroll 4
            for (int n = 0; n < count; n++) {
                const __m512bh input = (__m512bh)_mm512_loadu_si512(inputs + n * stride + at);
#pragma GCC unroll 4
                for (int r = 0; r < 4; r++) sums[n][r] = _mm512_dpbf16_ps(sums[n][r], weights[r], input);
            }
        }
        for (int n = 0; n < count; n++) _mm_storeu_ps(outputs + n * BLOCK + row, four_sums(sums[n]));
    }
}

INLINE void any_block(const Matrix *matrix, int block, const bf16 *inputs, const float *sums,
                      const int count, float *outputs) {
    if (matrix->bits == 4)
        codes_block(matrix, block, inputs, sums, count, 1, outputs);
    else if (matrix->bits == 8)
        codes_block(matrix, block, inputs, sums, count, 2, outputs);
    else
        for (int n = 0; n < count; n += 4)
            plain_block(matrix, block, inputs + (size_t)n * PADDED(matrix->columns), count < 4 ? count : 4,
                        outputs + n * BLOCK);
}

void multiply_block(const Matrix *matrix, int block, const bf16 *inputs, const float *sums, int count,
                    float *outputs) {
    const size_t stride = PADDED(matrix->columns), groups = groups_of(matrix);
    for (int done = 0, step; done < count; done += step) {
        const bf16 *from = inputs + done * stride;
        const float *of = sums + done * groups;
        float *to = outputs + done * BLOCK;
        const int left = count - done;
        step = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (step == 8) any_block(matrix, block, from, of, 8, to);
        else if (step == 4) any_block(matrix, block, from, of, 4, to);
        else if (step == 2) any_block(matrix, block, from, of, 2, to);
        else any_block(matrix, block, from, of, 1, to);
    }
    if (!matrix->bias) return;
    const int rows = matrix->rows - block * BLOCK;
    for (int n = 0; n < count; n++)
        for (int row = 0; row < BLOCK && row < rows; row++)
            outputs[n * BLOCK + row] += matrix->bias[block * BLOCK + row];
}

void sum_groups(const Matrix *matrix, const bf16 *inputs, int count, float *sums) {
    if (!matrix->zero_points) return;
    const int groups = groups_of(matrix);
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    for (int n = 0; n < count; n++)
        for (int group = 0; group < groups; group++) {
            const bf16 *row = inputs + (size_t)n * PADDED(matrix->columns);
            int end = (group + 1) * matrix->group;
            if (end > matrix->columns) end = matrix->columns;
            __m512 sum = _mm512_setzero_ps();
            for (int at = group * matrix->group; at < end; at += 32)
                sum = _mm512_dpbf16_ps(
                    sum, (__m512bh)_mm512_maskz_loadu_epi16(mask_of_32(end - at), row + at), ones);
            sums[n * groups + group] = _mm512_reduce_add_ps(sum);
        }
}

/* outputs: fp32, (count, rows). inputs: (count, PADDED(columns)). sums: room for (count, groups). */
void multiply(const Matrix *matrix, const bf16 *inputs, int count, float *sums, float *outputs, int threads) {
    sum_groups(matrix, inputs, count, sums);
    const int panel = 64, blocks = blocks_of(matrix); /* inputs at once: a panel stays in the cache */
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int block = 0; block < blocks; block++) {
        const int rows = matrix->rows - block * BLOCK;
        float part[64 * BLOCK];
        for (int done = 0; done < count; done += panel) {
            const int now = count - done < panel ? count - done : panel;
            multiply_block(matrix, block, inputs + (size_t)done * PADDED(matrix->columns),
                           sums + (size_t)done * groups_of(matrix), now, part);
            for (int n = 0; n < now; n++)
                memcpy(outputs + (size_t)(done + n) * matrix->rows + block * BLOCK, part + n * BLOCK,
                       sizeof(float) * (rows < BLOCK ? rows : BLOCK));
        }
    }
}
