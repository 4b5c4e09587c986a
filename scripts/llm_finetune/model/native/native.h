/* Matrices as the kernels see them; library.py describes the same structures to Python. */
#include <immintrin.h>
#include <stdint.h>

typedef uint16_t bf16;

/* Input rows are padded with zeros to whole vectors. */
#define PADDED(columns) (((columns) + 31) & ~31)
#define BLOCK 16
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int32_t bits;    /* 16: bf16, row by row; 8 or 4: codes, as packing.py lays them */
    int32_t rows, columns;
    int32_t group;   /* columns that share a scale, a multiple of 8 */
    int32_t middle;  /* the code of the weight 0, where there are no zeros */
    const void *weights;
    const void *scales;    /* (blocks, groups, 16): bf16 for 4 bits, fp32 for 8 */
    const uint8_t *zeros;  /* the same shape, or null */
    const float *bias;     /* (rows), or null */
} Matrix;

static inline int blocks_of(const Matrix *matrix) { return (matrix->rows + BLOCK - 1) / BLOCK; }
static inline int groups_of(const Matrix *matrix) {
    return matrix->bits == 16 ? 0 : (matrix->columns + matrix->group - 1) / matrix->group;
}

INLINE __mmask16 mask_of(int left) { return left >= 16 ? 0xffff : (1 << left) - 1; }
INLINE __mmask32 mask_of_32(int left) { return left >= 32 ? 0xffffffff : ((uint32_t)1 << left) - 1; }

INLINE __m512 widened(const bf16 *values) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)values)), 16));
}

/* Sums of the inputs over each group, (count, groups): what a zero takes off. */
void sum_groups(const Matrix *matrix, const bf16 *inputs, int count, float *sums);

/* One block of 16 outputs for each of `count` inputs, (count, 16), with the bias.
 * inputs: (count, PADDED(columns)). */
void multiply_block(const Matrix *matrix, int block, const bf16 *inputs, const float *sums, int count,
                    float *outputs);
