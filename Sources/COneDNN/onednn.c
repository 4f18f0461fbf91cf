#define _GNU_SOURCE
#include "od.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_version.h>

/* B is packed in blocks of 64 columns that follow each other; in bfloat16 pairs of rows lie side by side,
   of 8-bit integers four. */
static dnnl_format_tag_t packed_layout(dnnl_data_type_t type) {
  return type == dnnl_s8 ? dnnl_BA16a64b4a : type == dnnl_bf16 ? dnnl_BA16a64b2a : dnnl_BA16a64b;
}

/* Memory descriptors are values in version 2 of the library, objects in version 3. */
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t description;
typedef const_dnnl_memory_desc_t description_ref;
#define REF(d) (d)
static dnnl_status_t describe(description *d, const dnnl_dims_t dims, dnnl_data_type_t type,
                              const dnnl_dims_t strides) {
  if (strides) return dnnl_memory_desc_create_with_strides(d, 2, dims, type, strides);
  return dnnl_memory_desc_create_with_tag(d, 2, dims, type, packed_layout(type));
}
static void forget(description d) {
  if (d) dnnl_memory_desc_destroy(d);
}
#else
typedef dnnl_memory_desc_t description;
typedef const dnnl_memory_desc_t *description_ref;
#define REF(d) (&(d))
static dnnl_status_t describe(description *d, const dnnl_dims_t dims, dnnl_data_type_t type,
                              const dnnl_dims_t strides) {
  if (strides) return dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides);
  return dnnl_memory_desc_init_by_tag(d, 2, dims, type, packed_layout(type));
}
static void forget(description d) { (void)d; }
#endif

struct od_product {
  dnnl_primitive_t primitive;
  dnnl_primitive_desc_t chosen;
  od_shape shape;
};

static dnnl_engine_t engine;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void (*set_threads)(int);
static pthread_key_t stream_key;

static void drop_stream(void *stream) { dnnl_stream_destroy(stream); }

static void prepare(void) {
  if (pthread_key_create(&stream_key, drop_stream) != 0) return;
  if (dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success) engine = NULL;
  /* Debian's library runs on OpenMP, whose number of threads belongs to the calling thread. */
  *(void **)&set_threads = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
}

/* The calling thread's stream, on which the library keeps to that thread; NULL if there is none. */
static dnnl_stream_t own_stream(void) {
  pthread_once(&once, prepare);
  if (!engine) return NULL;
  dnnl_stream_t stream = pthread_getspecific(stream_key);
  if (stream) return stream;
  if (set_threads) set_threads(1);
  if (dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) != dnnl_success) return NULL;
  if (pthread_setspecific(stream_key, stream) == 0) return stream;
  dnnl_stream_destroy(stream);
  return NULL;
}

static description_ref queried(const od_product *p, dnnl_query_t what) {
  return dnnl_primitive_desc_query_md(p->chosen, what, 0);
}

static dnnl_data_type_t name_of(od_type type) {
  return type == OD_INT8 ? dnnl_s8 : type == OD_BF16 ? dnnl_bf16 : dnnl_f32;
}

static int append_sum(dnnl_post_ops_t list) {
#if DNNL_VERSION_MAJOR >= 3
  return dnnl_post_ops_append_sum(list, 1, 0, dnnl_data_type_undef) == dnnl_success;
#else
  return dnnl_post_ops_append_sum(list, 1) == dnnl_success;
#endif
}

/* The attributes of a product; 0 if the library does not take them. */
static int describe_attributes(const od_shape *s, dnnl_primitive_attr_t *attributes) {
  dnnl_post_ops_t list = NULL;
  int done = dnnl_primitive_attr_create(attributes) == dnnl_success &&
             dnnl_primitive_attr_set_scratchpad_mode(*attributes, dnnl_scratchpad_mode_user) ==
                 dnnl_success &&
             dnnl_post_ops_create(&list) == dnnl_success && (!s->accumulate || append_sum(list)) &&
             dnnl_primitive_attr_set_post_ops(*attributes, list) == dnnl_success;
  if (list) dnnl_post_ops_destroy(list);
  return done;
}

/* The library's implementation of a product; 0 if it has no packed kernel: its reference loops are slower than ours. */
static int choose(const od_shape *s, const_dnnl_primitive_attr_t attributes,
                  dnnl_primitive_desc_t *chosen) {
  const dnnl_dim_t m = (dnnl_dim_t)s->m, n = (dnnl_dim_t)s->n, k = (dnnl_dim_t)s->k;
  const dnnl_dims_t da = {m, k}, db = {k, n}, dc = {m, n}, dbias = {1, n};
  const dnnl_dims_t sa = {k, 1}, sc = {n, 1};
  const dnnl_data_type_t operand = name_of(s->operand);
  description a = {0}, b = {0}, c = {0}, bias = {0};
  int done = describe(&a, da, operand == dnnl_s8 ? dnnl_u8 : operand, sa) == dnnl_success &&
             describe(&b, db, operand, NULL) == dnnl_success &&
             describe(&c, dc, name_of(s->result), sc) == dnnl_success &&
             (!s->has_bias || describe(&bias, dbias, dnnl_f32, sc) == dnnl_success);
  if (done) {
#if DNNL_VERSION_MAJOR >= 3
    done = dnnl_matmul_primitive_desc_create(chosen, engine, a, b, bias, c, attributes) ==
           dnnl_success;
#else
    dnnl_matmul_desc_t wanted;
    done = dnnl_matmul_desc_init(&wanted, &a, &b, s->has_bias ? &bias : NULL, &c) == dnnl_success &&
           dnnl_primitive_desc_create(chosen, &wanted, attributes, engine, NULL) == dnnl_success;
#endif
  }
  forget(a);
  forget(b);
  forget(c);
  forget(bias);
  const char *name = NULL;
  return done &&
         dnnl_primitive_desc_query(*chosen, dnnl_query_impl_info_str, 0, &name) == dnnl_success &&
         strncmp(name, "brg", 3) == 0 &&
         /* without dot products of 8-bit integers sums of two products saturate */
         (s->operand != OD_INT8 || strstr(name, "vnni") || strstr(name, "amx"));
}

od_product *od_product_make(const od_shape *shape) {
  if (!own_stream()) return NULL;
  od_product *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  p->shape = *shape;
  dnnl_primitive_attr_t attributes = NULL;
  int done = describe_attributes(shape, &attributes) && choose(shape, attributes, &p->chosen) &&
             dnnl_primitive_create(&p->primitive, p->chosen) == dnnl_success;
  if (attributes) dnnl_primitive_attr_destroy(attributes);
  if (done) return p;
  if (p->chosen) dnnl_primitive_desc_destroy(p->chosen);
  free(p);
  return NULL;
}

size_t od_packed_size(const od_product *p) {
  return dnnl_memory_desc_get_size(queried(p, dnnl_query_weights_md));
}

size_t od_scratch_size(const od_product *p) {
  return dnnl_memory_desc_get_size(queried(p, dnnl_query_scratchpad_md));
}

static int remember(dnnl_memory_t *memory, description_ref d, const void *place) {
  return dnnl_memory_create(memory, d, engine, (void *)place) == dnnl_success;
}

int od_pack(const od_product *p, const void *b, od_type type, size_t ldb, int transpose_b,
            void *packed) {
  dnnl_stream_t own = own_stream();
  if (!own) return 0;
  const dnnl_dims_t dims = {(dnnl_dim_t)p->shape.k, (dnnl_dim_t)p->shape.n};
  const dnnl_dims_t strides = {transpose_b ? 1 : (dnnl_dim_t)ldb, transpose_b ? (dnnl_dim_t)ldb : 1};
  description plain = {0};
  dnnl_primitive_desc_t chosen = NULL;
  dnnl_primitive_t reorder = NULL;
  dnnl_memory_t from = NULL, to = NULL;
  description_ref target = queried(p, dnnl_query_weights_md);
  int done = describe(&plain, dims, name_of(type), strides) == dnnl_success &&
             dnnl_reorder_primitive_desc_create(&chosen, REF(plain), engine, target, engine, NULL) ==
                 dnnl_success &&
             dnnl_primitive_create(&reorder, chosen) == dnnl_success &&
             remember(&from, REF(plain), b) && remember(&to, target, packed);
  if (done) {
    dnnl_exec_arg_t arguments[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    done = dnnl_primitive_execute(reorder, own, 2, arguments) == dnnl_success &&
           dnnl_stream_wait(own) == dnnl_success;
  }
  if (from) dnnl_memory_destroy(from);
  if (to) dnnl_memory_destroy(to);
  if (reorder) dnnl_primitive_destroy(reorder);
  if (chosen) dnnl_primitive_desc_destroy(chosen);
  forget(plain);
  return done;
}

int od_run(const od_product *p, const void *a, const void *packed, const float *bias, void *c,
           void *scratch) {
  dnnl_stream_t own = own_stream();
  if (!own) return 0;
  struct {
    int argument;
    dnnl_query_t what;
    const void *place;
  } parts[] = {
      {DNNL_ARG_SRC, dnnl_query_src_md, a},
      {DNNL_ARG_WEIGHTS, dnnl_query_weights_md, packed},
      {DNNL_ARG_DST, dnnl_query_dst_md, c},
      {DNNL_ARG_SCRATCHPAD, dnnl_query_scratchpad_md, scratch},
      {DNNL_ARG_BIAS, dnnl_query_weights_md, bias},
  };
  const int count = p->shape.has_bias ? 5 : 4;
  dnnl_exec_arg_t arguments[5] = {{0}};
  int done = 1;
  for (int i = 0; done && i < count; i++) {
    arguments[i].arg = parts[i].argument;
    /* The bias is the second of the weights. */
    done = remember(&arguments[i].memory,
                    dnnl_primitive_desc_query_md(p->chosen, parts[i].what, i == 4), parts[i].place);
  }
  done = done && dnnl_primitive_execute(p->primitive, own, count, arguments) == dnnl_success &&
         dnnl_stream_wait(own) == dnnl_success;
  for (int i = 0; i < count; i++)
    if (arguments[i].memory) dnnl_memory_destroy(arguments[i].memory);
  return done;
}

void od_version(char *text, size_t size) {
  const dnnl_version_t *version = dnnl_version();
  snprintf(text, size, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
}
