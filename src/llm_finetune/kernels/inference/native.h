/* Matrices as the kernels see them; library.py describes the same structures to Python. */
#include "vectors.h"

/* Input rows are padded with zeros to whole vectors. */
#define PADDED(columns) (((columns) + 31) & ~31)
#define BLOCK 16

typedef struct {
    int32_t bits;    /* 16: bf16, row by row; 8 or 4: codes, as packing.py lays them */
    int32_t rows, columns;
    int32_t group;   /* columns that share a scale, a multiple of 8 */
    int32_t symmetric_zero_point;  /* the code of the weight 0, where there are no zero points */
    const void *weights;
    const void *scales;    /* (blocks, groups, 16): bf16 for 4 bits, fp32 for 8 */
    const uint8_t *zero_points;  /* the same shape, or null */
    const float *bias;     /* (rows), or null */
} Matrix;

static inline int blocks_of(const Matrix *matrix) { return (matrix->rows + BLOCK - 1) / BLOCK; }
static inline int groups_of(const Matrix *matrix) {
    return matrix->bits == 16 ? 0 : (matrix->columns + matrix->group - 1) / matrix->group;
}

/* Sums of the inputs over each group, (count, groups): what a zero takes off. */
void sum_groups(const Matrix *matrix, const bf16 *inputs, int count, float *sums);

/* One block of 16 outputs for each of `count` inputs, (count, 16), with the bias.
 * inputs: (count, PADDED(columns)). */
void multiply_block(const Matrix *matrix, int block, const bf16 *inputs, const float *sums, int count,
                    float *outputs);
