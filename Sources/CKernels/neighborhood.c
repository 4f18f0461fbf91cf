#include "ck_neighborhood.h"
#include "ck_feature_map.h"
#include "ck_softmax.h"

/* Queries are taken in tiles of 16, four by four where the grid allows it. The windows of a tile's queries lie
   in one rectangle of the grid, the union, whose keys and values are gathered; scores outside a query's own
   window are hidden. The work grows with tokens times window, whatever the size of the grid. */

/* A tile of queries, its union, and each query's window. */
typedef struct {
  size_t row, column, height, width;                /* queries that exist; lanes are `across` wide */
  size_t top, left, union_rows, union_columns, keys; /* the union */
  size_t across;
  bits first_row, last_row, first_column, last_column; /* window of each lane; empty where there is no query */
} tile;

CK_INLINE size_t window_start(size_t i, size_t extent, size_t window) {
  size_t half = window / 2, start = i > half ? i - half : 0;
  return smaller(start, extent - window);
}

/* Rows and columns of a tile. */
CK_INLINE void tile_size(const ck_neighborhood_shape *h, size_t *down, size_t *across) {
  *down = h->rows >= 4 ? 4 : h->rows >= 2 ? 2 : 1;
  *across = LANES / *down;
  if (h->columns < 4 && h->rows >= 4) {
    *across = h->columns >= 2 ? 2 : 1;
    *down = LANES / *across;
  }
}

/* Most keys that a union has. */
CK_INLINE size_t most_keys(const ck_neighborhood_shape *h) {
  size_t down, across;
  tile_size(h, &down, &across);
  return smaller(h->rows, h->window_rows + down - 1) *
         smaller(h->columns, h->window_columns + across - 1);
}

CK_INLINE tile make_tile(const ck_neighborhood_shape *h, size_t row, size_t column, size_t down,
                         size_t across) {
  tile t = {.row = row, .column = column, .across = across};
  t.height = smaller(down, h->rows - row);
  t.width = smaller(across, h->columns - column);
  t.top = window_start(row, h->rows, h->window_rows);
  t.left = window_start(column, h->columns, h->window_columns);
  t.union_rows = window_start(row + t.height - 1, h->rows, h->window_rows) + h->window_rows - t.top;
  t.union_columns =
      window_start(column + t.width - 1, h->columns, h->window_columns) + h->window_columns - t.left;
  t.keys = t.union_rows * t.union_columns;
  for (size_t lane = 0; lane < LANES; lane++) {
    size_t r = lane / across, c = lane % across;
    int exists = r < t.height && c < t.width;
    size_t y = exists ? window_start(row + r, h->rows, h->window_rows) - t.top : 0;
    size_t x = exists ? window_start(column + c, h->columns, h->window_columns) - t.left : 0;
    t.first_row[lane] = (int)y, t.last_row[lane] = exists ? (int)(y + h->window_rows) : 0;
    t.first_column[lane] = (int)x, t.last_column[lane] = (int)(x + h->window_columns);
  }
  return t;
}

/* The token of a lane's query. */
CK_INLINE size_t token_of(const ck_neighborhood_shape *h, const tile *t, size_t r, size_t c) {
  return (t->row + r) * h->columns + t->column + c;
}

/* Which queries see a key of the union. */
CK_INLINE void see(const tile *t, size_t y, size_t x, bits *seen) {
  *seen = (t->first_row <= (int)y) & (t->last_row > (int)y) & (t->first_column <= (int)x) &
          (t->last_column > (int)x);
}

/* out (keys, width) = the rows of the union's tokens. */
CK_INLINE void gather_keys(const ck_neighborhood_shape *h, const tile *t, const float *x, size_t stride,
                           float *out, size_t width) {
  for (size_t y = 0; y < t->union_rows; y++)
    for (size_t i = 0; i < t->union_columns; i++, out += width)
      memcpy(out, x + ((t->top + y) * h->columns + t->left + i) * stride, width * sizeof *out);
}

/* out (16, width) = the rows of the queries' tokens, zero where there is none. */
CK_INLINE void gather_queries(const ck_neighborhood_shape *h, const tile *t, const float *x,
                              size_t stride, float *out, size_t width) {
  memset(out, 0, LANES * width * sizeof *out);
  for (size_t r = 0; r < t->height; r++)
    for (size_t c = 0; c < t->width; c++)
      memcpy(out + (r * t->across + c) * width, x + token_of(h, t, r, c) * stride, width * sizeof *out);
}

/* The reverse of gather_queries. */
CK_INLINE void scatter_queries(const ck_neighborhood_shape *h, const tile *t, const float *x,
                               size_t width, float *out, size_t stride) {
  for (size_t r = 0; r < t->height; r++)
    for (size_t c = 0; c < t->width; c++)
      memcpy(out + token_of(h, t, r, c) * stride, x + (r * t->across + c) * width, width * sizeof *out);
}

CK_INLINE void turn_panel(const float *rows, size_t width, float *panel) {
  pack_panel(transposed(rows, width), 0, 0, LANES, width, LANES, panel);
}

/* Scores of a tile in powers of 2: s (keys x 16); kk (keys, d) gathered keys, kr packed. */
CK_INLINE void tile_scores(const ck_neighborhood_shape *h, const tile *t, const float *rows,
                           const float *kr, float *panel, float *s) {
  const size_t d = h->head_dim;
  const float slope = h->scale * LOG2_E;
  turn_panel(rows, d, panel);
  for (size_t c = 0; c < d * LANES; c++) panel[c] *= slope;
  multiply_packed(kr, d, 0, panel, LANES, s, LANES, t->keys, d);
}

/* Calls BODY for every key j at (y, x) of the union of `t`, with the lanes that see it in `seen`. */
#define EACH_KEY(t, BODY)                                                                          \
  for (size_t y = 0, j = 0; y < (t).union_rows; y++)                                               \
    for (size_t x = 0; x < (t).union_columns; x++, j++) {                                          \
      bits seen;                                                                                   \
      see(&(t), y, x, &seen);                                                                      \
      BODY                                                                                         \
    }

CK_CLONES void ck_neighborhood_forward_f32(const float *q, const float *k, const float *v, float *out,
                                           float *lse, const ck_neighborhood_shape *h) {
  const size_t d = h->head_dim, dp = round_up(d), most = most_keys(h), tokens = h->rows * h->columns;
  const size_t size = (most * d > LANES * dp ? most * d : LANES * dp) + 8, far = h->far ? 1 : 0;
  const int map = CK_FEATURES_ELU1;
  float *gathered = scratch(3 * size + most * LANES * 2 + 3 * d * LANES + 2 * LANES * dp +
                            far * (d * dp + dp + 2 * FEATURE_ROWS * dp + size));
  float *kr = gathered + size, *vt = kr + size, *s = vt + size, *near = s + most * LANES;
  float *panel = near + most * LANES, *o = panel + d * LANES, *phi_panel = o + d * LANES;
  float *rows = phi_panel + d * LANES, *phi = rows + LANES * dp;
  float *sums = phi + LANES * dp, *z = sums + d * dp, *work = z + dp, *fr = work + 2 * FEATURE_ROWS * dp;
  if (far) summarise(map, k, v, h->stride, sums, z, work, work + FEATURE_ROWS * dp, tokens, d);
  size_t down, across;
  tile_size(h, &down, &across);
  for (size_t row = 0; row < h->rows; row += down)
    for (size_t column = 0; column < h->columns; column += across) {
      const tile t = make_tile(h, row, column, down, across);
      gather_queries(h, &t, q, h->stride, rows, d);
      gather_keys(h, &t, k, h->stride, gathered, d);
      pack_rows(rows_of(gathered, d), 0, 0, t.keys, d, ck_tile_rows, kr);
      tile_scores(h, &t, rows, kr, panel, s);
      vec top = (vec){0} - INFINITY;
      EACH_KEY(t, {
        vec *score = (vec *)(s + j * LANES);
        top = SELECT(seen & (*score > top), *score, top);
      })
      if (far) top = LARGER(top, (vec){0});
      vec sum = {0}, part = {0};
      EACH_KEY(t, {
        vec x = *(vec *)(s + j * LANES) - top;
        raise_2(&x);
        x = SELECT(seen, x * h->mix, (vec){0});
        *(vec *)(s + j * LANES) = x;
        sum += x;
      })
      if (far) {
        /* part = (1 - m) 2^-top / d: what a far weight is multiplied by. */
        part = -top;
        raise_2(&part);
        part *= (1.0f - h->mix) / (float)d;
        features(map, rows, d, phi, LANES, d, dp);
        for (size_t c = 0; c < d; c++)
          for (size_t lane = 0; lane < LANES; lane++) phi_panel[c * LANES + lane] = phi[lane * dp + c];
        features(map, gathered, d, vt, t.keys, d, d);
        pack_rows(rows_of(vt, d), 0, 0, t.keys, d, ck_tile_rows, fr);
        multiply_packed(fr, d, 0, phi_panel, LANES, near, LANES, t.keys, d);
        vec all = {0};
        for (size_t c = 0; c < d; c++) all += *(vec *)(phi_panel + c * LANES) * z[c];
        EACH_KEY(t, {
          vec f = SELECT(seen, *(vec *)(near + j * LANES), (vec){0});
          all -= f;
          *(vec *)(s + j * LANES) -= part * f;
        })
        sum += part * all;
      }
      gather_keys(h, &t, v, h->stride, gathered, d);
      pack_rows(transposed(gathered, d), 0, 0, d, t.keys, ck_tile_rows, vt);
      multiply_packed(vt, t.keys, 0, s, LANES, o, LANES, d, t.keys);
      if (far) {
        for (size_t c = 0; c < d * LANES; c += LANES) *(vec *)(phi_panel + c) *= part;
        for (size_t c = 0; c < d; c++) {
          vec add = {0};
          for (size_t i = 0; i < d; i++) add += *(vec *)(phi_panel + i * LANES) * sums[i * dp + c];
          *(vec *)(o + c * LANES) += add;
        }
      }
      const vec inverse = 1.0f / sum;
      store_turned(o, &inverse, rows, d, LANES, d);
      scatter_queries(h, &t, rows, d, out, h->out_stride);
      for (size_t r = 0; r < t.height; r++)
        for (size_t c = 0; c < t.width; c++) {
          size_t lane = r * across + c;
          lse[token_of(h, &t, r, c)] = top[lane] * LN_2 + logf(sum[lane]);
        }
    }
}

CK_CLONES float ck_neighborhood_backward_f32(const float *q, const float *k, const float *v,
                                             const float *out, const float *dout, const float *lse,
                                             float *dq, float *dk, float *dv,
                                             const ck_neighborhood_shape *h) {
  const size_t d = h->head_dim, dp = round_up(d), most = most_keys(h), tokens = h->rows * h->columns;
  const size_t size = (most * d > LANES * dp ? most * d : LANES * dp) + 8, far = h->far ? 1 : 0;
  const int map = CK_FEATURES_ELU1;
  float *gathered =
      scratch(5 * size + 3 * most * LANES + 6 * d * LANES + 6 * LANES * dp + 2 * tokens * dp +
              far * (3 * d * dp + 2 * dp + 4 * FEATURE_ROWS * dp + 2 * size + tokens * dp));
  float *kr = gathered + size, *vr = kr + size, *kt = vr + size, *spare = kt + size;
  float *p = spare + size, *ds = p + most * LANES, *near = ds + most * LANES;
  float *panel = near + most * LANES, *gt = panel + d * LANES, *ot = gt + d * LANES;
  float *o = ot + d * LANES, *phi_panel = o + d * LANES, *dphi = phi_panel + d * LANES;
  float *rows = dphi + d * LANES, *g = rows + LANES * dp, *y_rows = g + LANES * dp;
  float *phi = y_rows + LANES * dp, *scaled = phi + LANES * dp, *turned_rows = scaled + LANES * dp;
  float *dkp = turned_rows + LANES * dp, *dvp = dkp + tokens * dp;
  float *sums = dvp + tokens * dp, *dsums = sums + d * dp, *turned = dsums + d * dp;
  float *z = turned + d * dp, *dz = z + dp, *work = dz + dp;
  float *fr = work + 4 * FEATURE_ROWS * dp, *ft = fr + size, *dfp = ft + size;
  memset(dkp, 0, 2 * tokens * dp * sizeof *dkp);
  if (far) {
    summarise(map, k, v, h->stride, sums, z, work, work + FEATURE_ROWS * dp, tokens, d);
    memset(dsums, 0, d * dp * sizeof *dsums);
    memset(dz, 0, dp * sizeof *dz);
    memset(dfp, 0, tokens * dp * sizeof *dfp);
  }
  double dmix = 0;
  size_t down, across;
  tile_size(h, &down, &across);
  for (size_t row = 0; row < h->rows; row += down)
    for (size_t column = 0; column < h->columns; column += across) {
      const tile t = make_tile(h, row, column, down, across);
      vec shift = (vec){0} + INFINITY, delta = {0}; /* queries that do not exist weigh nothing */
      for (size_t r = 0; r < t.height; r++)
        for (size_t c = 0; c < t.width; c++)
          shift[r * across + c] = lse[token_of(h, &t, r, c)] * LOG2_E;
      gather_queries(h, &t, q, h->stride, rows, d);
      gather_queries(h, &t, dout, h->out_stride, g, d);
      gather_queries(h, &t, out, h->out_stride, y_rows, d);
      turn_panel(g, d, gt);
      turn_panel(y_rows, d, ot);
      for (size_t c = 0; c < d * LANES; c += LANES) delta += *(vec *)(gt + c) * *(vec *)(ot + c);
      gather_keys(h, &t, v, h->stride, gathered, d);
      pack_rows(rows_of(gathered, d), 0, 0, t.keys, d, ck_tile_rows, vr);
      gather_keys(h, &t, k, h->stride, gathered, d);
      pack_rows(rows_of(gathered, d), 0, 0, t.keys, d, ck_tile_rows, kr);
      pack_rows(transposed(gathered, d), 0, 0, d, t.keys, ck_tile_rows, kt);
      tile_scores(h, &t, rows, kr, panel, p);
      multiply_packed(vr, d, 0, gt, LANES, ds, LANES, t.keys, d);
      vec part = {0}, near_slope = {0};
      if (far) {
        part = -shift;
        raise_2(&part);
        part = SELECT(t.last_row > 0, part * ((1.0f - h->mix) / (float)d), (vec){0});
        features(map, rows, d, phi, LANES, d, dp);
        for (size_t c = 0; c < d; c++)
          for (size_t lane = 0; lane < LANES; lane++) phi_panel[c * LANES + lane] = phi[lane * dp + c];
        features(map, gathered, d, spare, t.keys, d, d);
        pack_rows(rows_of(spare, d), 0, 0, t.keys, d, ck_tile_rows, fr);
        pack_rows(transposed(spare, d), 0, 0, d, t.keys, ck_tile_rows, ft);
        multiply_packed(fr, d, 0, phi_panel, LANES, near, LANES, t.keys, d);
      }
      /* Afterwards p: weight of the value; ds: slope by the score; near: slope by a near key's far score. */
      vec far_slope = {0};
      EACH_KEY(t, {
        vec x = *(vec *)(p + j * LANES) - shift;
        vec slope = *(vec *)(ds + j * LANES) - delta;
        raise_2(&x);
        x = SELECT(seen, x, (vec){0});
        near_slope += x * slope;
        x *= h->mix;
        *(vec *)(ds + j * LANES) = x * slope;
        if (far) {
          vec *f = (vec *)(near + j * LANES);
          const vec weight = SELECT(seen, part * *f, (vec){0});
          far_slope -= weight * slope;
          *f = SELECT(seen, part * slope, (vec){0});
          x -= weight;
        }
        *(vec *)(p + j * LANES) = x;
      })
      multiply_packed(kt, t.keys, 0, ds, LANES, o, LANES, d, t.keys);
      const vec scale = (vec){0} + h->scale;
      store_turned(o, &scale, turned_rows, d, LANES, d);
      if (far) {
        /* dphi(q) = part ((S - near) g - (g y) (z - near)) */
        multiply_packed(ft, t.keys, 0, near, LANES, dphi, LANES, d, t.keys);
        vec all = {0};
        for (size_t i = 0; i < d; i++) {
          vec sum = {0};
          for (size_t c = 0; c < d; c++) sum += *(vec *)(gt + c * LANES) * sums[i * dp + c];
          sum = part * (sum - delta * z[i]);
          all += sum * *(vec *)(phi_panel + i * LANES);
          *(vec *)(dphi + i * LANES) = sum - *(vec *)(dphi + i * LANES);
        }
        far_slope += all;
        /* by the sums: part phi(q) (g, -g y) */
        for (size_t lane = 0; lane < LANES; lane++)
          for (size_t c = 0; c < dp; c++) {
            float value = part[lane] * phi[lane * dp + c];
            scaled[lane * dp + c] = value;
            dz[c] -= delta[lane] * value;
          }
        memset(y_rows, 0, LANES * dp * sizeof *y_rows);
        for (size_t lane = 0; lane < LANES; lane++)
          memcpy(y_rows + lane * dp, g + lane * d, d * sizeof *g);
        multiply(scaled, 1, dp, y_rows, dp, dsums, dp, d, dp, LANES, 1);
        for (size_t lane = 0; lane < LANES; lane++)
          for (size_t c = 0; c < d; c++) {
            float slope = phi[lane * dp + c] < 1.0f ? phi[lane * dp + c] : 1.0f;
            turned_rows[lane * d + c] += slope * dphi[c * LANES + lane];
          }
      }
      scatter_queries(h, &t, turned_rows, d, dq, h->stride);
      for (size_t lane = 0; lane < LANES; lane++)
        if (t.last_row[lane] > 0)
          dmix += near_slope[lane] - (h->mix < 1.0f ? far_slope[lane] / (1.0f - h->mix) : 0);
      /* by keys and values, a row of the union at a time */
      const panels query_panels = pack_panels(rows, d, gathered, LANES, d);
      const panels slope_panels = pack_panels(g, d, spare, LANES, d);
      for (size_t y = 0; y < t.union_rows; y++) {
        const size_t first = y * t.union_columns;
        const size_t at = ((t.top + y) * h->columns + t.left) * dp;
        ck_multiply_f32(ds + first * LANES, LANES, 1, query_panels, dkp + at, dp, t.union_columns, dp,
                        LANES, 1);
        ck_multiply_f32(p + first * LANES, LANES, 1, slope_panels, dvp + at, dp, t.union_columns, dp,
                        LANES, 1);
        if (far)
          multiply(near + first * LANES, LANES, 1, phi, dp, dfp + at, dp, t.union_columns, dp, LANES, 1);
      }
    }
  for (size_t i = 0; i < tokens; i++)
    for (size_t c = 0; c < d; c++) {
      dk[i * h->stride + c] = dkp[i * dp + c] * h->scale;
      dv[i * h->stride + c] = dvp[i * dp + c];
    }
  if (!far) return 0;
  /* Far keys: dphi(k) = dS v + dz - near, dv += dS^T phi(k). */
  float *feature = work, *dfeature = feature + FEATURE_ROWS * dp;
  float *values = dfeature + FEATURE_ROWS * dp, *product = values + FEATURE_ROWS * dp;
  pack_transposed(dsums, dp, turned, d, d, dp);
  for (size_t i = 0; i < tokens; i += FEATURE_ROWS) {
    size_t count = smaller(FEATURE_ROWS, tokens - i);
    features(map, k + i * h->stride, h->stride, feature, count, d, dp);
    multiply(feature, dp, 1, dsums, dp, product, dp, count, dp, d, 0);
    pack(v + i * h->stride, h->stride, values, count, d, dp);
    for (size_t r = 0; r < count; r++)
      for (size_t c = 0; c < dp; c++) dfeature[r * dp + c] = dz[c] - dfp[(i + r) * dp + c];
    multiply(values, dp, 1, turned, dp, dfeature, dp, count, dp, d, 1);
    for (size_t r = 0; r < count; r++)
      for (size_t c = 0; c < d; c++) {
        float slope = feature[r * dp + c] < 1.0f ? feature[r * dp + c] : 1.0f;
        dv[(i + r) * h->stride + c] += product[r * dp + c];
        dk[(i + r) * h->stride + c] += slope * dfeature[r * dp + c];
      }
  }
  return (float)dmix;
}
