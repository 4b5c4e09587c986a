/* A few tokens further for a few answers at once, through a whole model of the Llama family.
 *
 * What is read at once are rows: of each answer `tokens` that follow each other, answer after answer.
 * All threads go through the layers together and meet five times a layer. What is small (the norms) each of
 * them computes for itself, since that is faster than to wait for it.
 */
#include "model.h"
#include <stdlib.h>

/* Outputs of one block to where they belong. */
static void multiply_to(const Matrix *matrix, int block, const bf16 *inputs, const float *sums, int count,
                        float *to, size_t stride, int add) {
    float part[count * BLOCK];
    multiply_block(matrix, block, inputs, sums, count, part);
    for (int n = 0; n < count; n++)
        for (int row = 0; row < BLOCK && block * BLOCK + row < matrix->rows; row++) {
            float *here = to + n * stride + block * BLOCK + row;
            *here = add ? *here + part[n * BLOCK + row] : part[n * BLOCK + row];
        }
}

static void project(const Model *model, const Layer *layer, const bf16 *inputs, int rows, float *sums) {
    const Matrix *matrices[] = {&layer->query, &layer->key, &layer->value};
    const int starts[] = {0, model->heads * model->head_dim, (model->heads + model->key_heads) * model->head_dim};
    const size_t stride = (size_t)(model->heads + 2 * model->key_heads) * model->head_dim;
    const int ends[] = {blocks_of(matrices[0]), blocks_of(matrices[0]) + blocks_of(matrices[1]),
                        blocks_of(matrices[0]) + blocks_of(matrices[1]) + blocks_of(matrices[2])};
    sum_groups(matrices[0], inputs, rows, sums);
#pragma omp for schedule(static)
    for (int block = 0; block < ends[2]; block++) {
        const int which = block < ends[0] ? 0 : block < ends[1] ? 1 : 2;
        multiply_to(matrices[which], block - (which ? ends[which - 1] : 0), inputs, sums, rows,
                    model->projected + starts[which], stride, 0);
    }
}

static void gate_and_up(const Model *model, const Layer *layer, const bf16 *inputs, int rows, float *sums) {
    sum_groups(&layer->gate, inputs, rows, sums);
#pragma omp for schedule(static)
    for (int block = 0; block < blocks_of(&layer->gate); block++) {
        float gate[rows * BLOCK], up[rows * BLOCK];
        multiply_block(&layer->gate, block, inputs, sums, rows, gate);
        multiply_block(&layer->up, block, inputs, sums, rows, up);
        for (int n = 0; n < rows; n++) {
            const __m512 g = _mm512_loadu_ps(gate + n * BLOCK), u = _mm512_loadu_ps(up + n * BLOCK);
            const __m512 one = _mm512_set1_ps(1);
            const __m512 e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), g));
            round_16(_mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(one, e)), u),
                     model->activated + (size_t)n * PADDED(model->inner) + block * BLOCK,
                     mask_of(model->inner - block * BLOCK));
        }
    }
}

/* outputs: to + product, or the product alone. */
static void multiply_all(const Matrix *matrix, const bf16 *inputs, int rows, float *sums, float *to, int add) {
    sum_groups(matrix, inputs, rows, sums);
#pragma omp for schedule(static)
    for (int block = 0; block < blocks_of(matrix); block++)
        multiply_to(matrix, block, inputs, sums, rows, to, matrix->rows, add);
}

/* `count` rows of the residual stream, each `every` rows after the one before. */
static void normed(const Model *model, const float *weight, int first, int every, int count, bf16 *to) {
    for (int n = 0; n < count; n++)
        norm(model->residual + (size_t)(first + n * every) * model->hidden, weight, model->hidden,
             model->epsilon, to + (size_t)n * PADDED(model->hidden));
}

static size_t widest(const Model *model) {
    int most = model->hidden > model->inner ? model->hidden : model->inner;
    return most > model->heads * model->head_dim ? most : model->heads * model->head_dim;
}

/* ids: (count, tokens); column: of the first of them in the cache; logits: (count, vocabulary), of the token
 * that follows, or null. */
void step(const Model *model, const int64_t *ids, int tokens, int column, float *logits) {
#pragma omp parallel num_threads(model->threads)
    {
        const int count = model->count, rows = count * tokens, items = count * model->key_heads;
        bf16 *inputs = calloc((size_t)rows * PADDED(model->hidden), sizeof(bf16));
        float *scores = malloc(sizeof(float) * QUERIES * ROOM(model->capacity));
        float *sums = malloc(sizeof(float) * rows * (widest(model) / 8 + 1));
#pragma omp for schedule(static)
        for (int n = 0; n < rows; n++)
            for (int i = 0; i < model->hidden; i++) {
                const uint32_t bits = (uint32_t)model->embedding[ids[n] * model->hidden + i] << 16;
                memcpy(model->residual + (size_t)n * model->hidden + i, &bits, 4);
            }
        for (int l = 0; l < model->layer_count; l++) {
            const Layer *layer = model->layers + l;
            normed(model, layer->input_norm, 0, 1, rows, inputs);
            project(model, layer, inputs, rows, sums);
#pragma omp for schedule(static)
            for (int item = 0; item < items; item++) {
                const int answer = item / model->key_heads, key_head = item % model->key_heads;
                const Piece piece = {model, layer, answer, key_head, tokens, column};
                attend(&piece, scores);
            }
            multiply_all(&layer->output, model->attended, rows, sums, model->residual, 1);
            normed(model, layer->after_attention_norm, 0, 1, rows, inputs);
            gate_and_up(model, layer, inputs, rows, sums);
            multiply_all(&layer->down, model->activated, rows, sums, model->residual, 1);
        }
        if (logits) {
            normed(model, model->final_norm, tokens - 1, tokens, count, inputs);
            multiply_all(&model->head, inputs, count, sums, logits, 0);
        }
        free(inputs);
        free(scores);
        free(sums);
    }
}
