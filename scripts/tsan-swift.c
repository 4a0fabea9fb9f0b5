// ThreadSanitizer does not see what Swift's runtime orders, since the runtime is not instrumented. Preloaded, this tells
// it of three things. Only `scripts/sanitize` uses it.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#define SWIFT __attribute__((swiftcall))
#define SELF __attribute__((swift_context))

extern void __tsan_acquire(void *address) __attribute__((weak));
extern void __tsan_release(void *address) __attribute__((weak));

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

// 1. The runtime has calls of its own around jobs that change threads. It turns them on when ThreadSanitizer calls
//    `__tsan_on_initialize`, which on Linux reaches an empty function of that name in the program instead.
__attribute__((constructor)) static void enable(void) {
    void (*on_initialize)(void) = (void (*)(void))next("__tsan_on_initialize");
    if (on_initialize && __tsan_acquire) on_initialize();
}

// 2. What the holders of a Mutex do, once they had to wait for it.
typedef SWIFT void lock_function(uint32_t thread, SELF void *self);
typedef SWIFT void unlock_function(SELF void *self);

#define LOCK "$s15Synchronization12_MutexHandleV9_lockSlowyys6UInt32VF"
#define UNLOCK "$s15Synchronization12_MutexHandleV11_unlockSlowyyF"

SWIFT void lock_slow(uint32_t thread, SELF void *self) __asm__(LOCK);
SWIFT void unlock_slow(SELF void *self) __asm__(UNLOCK);

SWIFT void lock_slow(uint32_t thread, SELF void *self) {
    static lock_function *real;
    if (!real) real = (lock_function *)next(LOCK);
    real(thread, self);
    if (__tsan_acquire) __tsan_acquire(self);
}

SWIFT void unlock_slow(SELF void *self) {
    static unlock_function *real;
    if (!real) real = (unlock_function *)next(UNLOCK);
    if (__tsan_release) __tsan_release(self);
    real(self);
}

// 3. A continuation that is resumed before its task waits, or just then: the task goes on without a job. So what the
//    task goes on with is exchanged for a function that acquires first.
typedef SWIFT void resume_function(void *task);
typedef SWIFT void fail_function(void *task, void *error);
typedef SWIFT void *current_function(void);
#define ASYNC __attribute__((swiftasynccall))

struct context { // as in the runtime
    void *parent;
    ASYNC void (*resume)(__attribute__((swift_async_context)) struct context *);
};
typedef ASYNC void await_function(struct context *context);

struct waiting {
    struct waiting *next;
    struct context *context;
    ASYNC void (*resume)(__attribute__((swift_async_context)) struct context *);
};

static struct {
    pthread_mutex_t lock;
    struct waiting *first;
} waiting[1024];
static current_function *current;

static unsigned bucket(struct context *context) { return ((uintptr_t)context >> 4) % 1024; }

__attribute__((constructor)) static void prepare(void) {
    for (int i = 0; i < 1024; i++) pthread_mutex_init(&waiting[i].lock, NULL);
    current = (current_function *)next("swift_task_getCurrent");
}

static ASYNC void go_on(__attribute__((swift_async_context)) struct context *context) {
    unsigned index = bucket(context);
    pthread_mutex_lock(&waiting[index].lock);
    struct waiting **place = &waiting[index].first;
    while ((*place)->context != context) place = &(*place)->next;
    struct waiting *found = *place;
    *place = found->next;
    pthread_mutex_unlock(&waiting[index].lock);
    ASYNC void (*resume)(__attribute__((swift_async_context)) struct context *) = found->resume;
    free(found);
    __tsan_acquire(current());
    __attribute__((musttail)) return resume(context);
}

SWIFT void swift_continuation_resume(void *task) {
    static resume_function *real;
    if (!real) real = (resume_function *)next("swift_continuation_resume");
    if (__tsan_release) __tsan_release(task);
    real(task);
}

SWIFT void swift_continuation_throwingResume(void *task) {
    static resume_function *real;
    if (!real) real = (resume_function *)next("swift_continuation_throwingResume");
    if (__tsan_release) __tsan_release(task);
    real(task);
}

SWIFT void swift_continuation_throwingResumeWithError(void *task, void *error) {
    static fail_function *real;
    if (!real) real = (fail_function *)next("swift_continuation_throwingResumeWithError");
    if (__tsan_release) __tsan_release(task);
    real(task, error);
}

ASYNC void swift_continuation_await(struct context *context) {
    static await_function *real;
    if (!real) real = (await_function *)next("swift_continuation_await");
    if (__tsan_acquire) {
        struct waiting *more = malloc(sizeof(struct waiting));
        if (!more) abort();
        unsigned index = bucket(context);
        more->context = context;
        more->resume = context->resume;
        context->resume = go_on;
        pthread_mutex_lock(&waiting[index].lock);
        more->next = waiting[index].first;
        waiting[index].first = more;
        pthread_mutex_unlock(&waiting[index].lock);
    }
    __attribute__((musttail)) return real(context);
}
