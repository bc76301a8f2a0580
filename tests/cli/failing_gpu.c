/* A Vulkan driver that fails on command: Mesa's lavapipe with a few functions replaced.
 *
 * FAILING_GPU_DRIVER      path of libvulkan_lvp.so
 * FAILING_GPU_NAMED       report a discrete GPU, so that `--device auto` selects it
 * FAILING_GPU_SUBMITS     number of submissions that succeed; the device is lost in the next one
 * FAILING_GPU_WAITS       number of waits that succeed; the device is lost in the next one
 * FAILING_GPU_MEMORY      size of the device memory in bytes
 * FAILING_GPU_BINDING     largest binding of a shader, in bytes
 *
 * The used parts of vulkan.h are declared here, so that no headers have to be installed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS = 0, OUT_OF_DEVICE_MEMORY = -2, INITIALIZATION_FAILED = -3, DEVICE_LOST = -4 };
enum { DISCRETE_GPU = 2 };

typedef int32_t Result;
typedef void (*Function)(void);
typedef Function (*Lookup)(void *, const char *);

typedef struct {
    uint32_t type;
    const void *next;
    uint64_t size;
    uint32_t memory_type;
} AllocateInfo;

/* The start of VkPhysicalDeviceProperties, up to the limit that we change. */
typedef struct {
    uint32_t versions_and_ids[4];
    uint32_t device_type;
    char name[256];
    uint8_t cache_uuid[16];
    uint64_t alignment[0];
    uint32_t limits[7];
    uint32_t max_storage_buffer_range;
} Properties;

typedef struct {
    uint32_t type;
    void *next;
    Properties properties;
} Properties2;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Lookup real_instance, real_device, real_physical;
static int is_lost;

static uint64_t number(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static Result (*real_vkDeviceWaitIdle)(void *);
static Result (*real_vkQueueWaitIdle)(void *);

/* Counts a call and returns whether the device is lost. On the loss, waits first until the device is idle, since its
 * memory may be freed afterwards. */
static int lost_after(uint64_t *n_calls, const char *limit, Result (*wait_idle)(void *), void *device_or_queue) {
    pthread_mutex_lock(&lock);
    if (limit && ++*n_calls > number(limit, UINT64_MAX) && !is_lost) {
        fprintf(stderr, "failing GPU: lost at %s\n", limit);
        wait_idle(device_or_queue);
        is_lost = 1;
    }
    int lost = is_lost;
    pthread_mutex_unlock(&lock);
    return lost;
}

/* REAL(vkX) is the driver's vkX. FRONT defines a vkX that calls it unless the device is lost. */
#define REAL(name) real_##name
#define FRONT(name, limit, wait_idle, parameters, arguments, handle)                                                  \
    static Result(*REAL(name)) parameters;                                                                            \
    static Result name parameters {                                                                                   \
        static uint64_t n_calls;                                                                                      \
        return lost_after(&n_calls, limit, REAL(wait_idle), handle) ? DEVICE_LOST : REAL(name) arguments;             \
    }

FRONT(vkQueueSubmit, "FAILING_GPU_SUBMITS", vkQueueWaitIdle,
      (void *queue, uint32_t n, const void *infos, uint64_t fence), (queue, n, infos, fence), queue)
FRONT(vkQueueSubmit2, "FAILING_GPU_SUBMITS", vkQueueWaitIdle,
      (void *queue, uint32_t n, const void *infos, uint64_t fence), (queue, n, infos, fence), queue)
FRONT(vkWaitSemaphores, "FAILING_GPU_WAITS", vkDeviceWaitIdle,
      (void *device, const void *info, uint64_t timeout), (device, info, timeout), device)
FRONT(vkWaitForFences, "FAILING_GPU_WAITS", vkDeviceWaitIdle,
      (void *device, uint32_t n, const uint64_t *fences, uint32_t all, uint64_t timeout),
      (device, n, fences, all, timeout), device)
FRONT(vkGetSemaphoreCounterValue, NULL, vkDeviceWaitIdle, (void *device, uint64_t semaphore, uint64_t *value),
      (device, semaphore, value), device)
FRONT(vkGetFenceStatus, NULL, vkDeviceWaitIdle, (void *device, uint64_t fence), (device, fence), device)

/* Allocated memory, by handle. */
static struct {
    uint64_t memory, size;
} blocks[4096];
static uint64_t n_bytes;

static Result (*REAL(vkAllocateMemory))(void *, const AllocateInfo *, const void *, uint64_t *);
static Result vkAllocateMemory(void *device, const AllocateInfo *info, const void *callbacks, uint64_t *memory) {
    Result result = OUT_OF_DEVICE_MEMORY;
    pthread_mutex_lock(&lock);
    if (n_bytes + info->size <= number("FAILING_GPU_MEMORY", UINT64_MAX)) {
        result = REAL(vkAllocateMemory)(device, info, callbacks, memory);
    } else {
        fprintf(stderr, "failing GPU: %llu bytes more than %llu\n", (unsigned long long)info->size,
                (unsigned long long)n_bytes);
    }
    for (size_t i = 0; result == SUCCESS && i < sizeof blocks / sizeof *blocks; i++) {
        if (!blocks[i].memory) {
            blocks[i].memory = *memory;
            blocks[i].size = info->size;
            n_bytes += info->size;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

static void (*REAL(vkFreeMemory))(void *, uint64_t, const void *);
static void vkFreeMemory(void *device, uint64_t memory, const void *callbacks) {
    pthread_mutex_lock(&lock);
    for (size_t i = 0; memory && i < sizeof blocks / sizeof *blocks; i++) {
        if (blocks[i].memory == memory) {
            n_bytes -= blocks[i].size;
            blocks[i].memory = 0;
            break;
        }
    }
    REAL(vkFreeMemory)(device, memory, callbacks);
    pthread_mutex_unlock(&lock);
}

static void lie(Properties *properties) {
    if (getenv("FAILING_GPU_NAMED")) {
        properties->device_type = DISCRETE_GPU;
    }
    properties->max_storage_buffer_range = number("FAILING_GPU_BINDING", properties->max_storage_buffer_range);
}

static void (*REAL(vkGetPhysicalDeviceProperties))(void *, Properties *);
static void vkGetPhysicalDeviceProperties(void *physical, Properties *properties) {
    REAL(vkGetPhysicalDeviceProperties)(physical, properties);
    lie(properties);
}

static void (*REAL(vkGetPhysicalDeviceProperties2))(void *, Properties2 *);
static void vkGetPhysicalDeviceProperties2(void *physical, Properties2 *properties) {
    REAL(vkGetPhysicalDeviceProperties2)(physical, properties);
    lie(&properties->properties);
}

static Function find_on_device(void *device, const char *name);

/* Returns our function of this name, or else `real`, the driver's. */
static Function ours(const char *name, Function real) {
#define TAKE(function, wanted)                                                                                        \
    if (real && !strcmp(name, wanted)) {                                                                              \
        REAL(function) = (void *)real;                                                                                \
        return (Function)function;                                                                                    \
    }
#define TAKE_BOTH(function, suffix) TAKE(function, #function) TAKE(function, #function suffix)
    TAKE(vkQueueSubmit, "vkQueueSubmit")
    TAKE_BOTH(vkQueueSubmit2, "KHR")
    TAKE_BOTH(vkWaitSemaphores, "KHR")
    TAKE(vkWaitForFences, "vkWaitForFences")
    TAKE_BOTH(vkGetSemaphoreCounterValue, "KHR")
    TAKE(vkGetFenceStatus, "vkGetFenceStatus")
    TAKE(vkAllocateMemory, "vkAllocateMemory")
    TAKE(vkFreeMemory, "vkFreeMemory")
    TAKE(vkGetPhysicalDeviceProperties, "vkGetPhysicalDeviceProperties")
    TAKE_BOTH(vkGetPhysicalDeviceProperties2, "KHR")
    if (real && !strcmp(name, "vkGetDeviceProcAddr")) {
        real_device = (Lookup)real;
        return (Function)find_on_device;
    }
    return real;
}

static Function find_on_device(void *device, const char *name) {
    REAL(vkDeviceWaitIdle) = (void *)real_device(device, "vkDeviceWaitIdle");
    REAL(vkQueueWaitIdle) = (void *)real_device(device, "vkQueueWaitIdle");
    return ours(name, real_device(device, name));
}

EXPORT Function vk_icdGetInstanceProcAddr(void *instance, const char *name) {
    return real_instance ? ours(name, real_instance(instance, name)) : NULL;
}

EXPORT Function vk_icdGetPhysicalDeviceProcAddr(void *instance, const char *name) {
    return real_physical ? ours(name, real_physical(instance, name)) : NULL;
}

EXPORT Result vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
    void *driver = dlopen(getenv("FAILING_GPU_DRIVER"), RTLD_NOW | RTLD_LOCAL);
    if (!driver) {
        fprintf(stderr, "failing GPU: %s\n", dlerror());
        return INITIALIZATION_FAILED;
    }
    real_instance = (Lookup)dlsym(driver, "vk_icdGetInstanceProcAddr");
    real_physical = (Lookup)dlsym(driver, "vk_icdGetPhysicalDeviceProcAddr");
    Result (*negotiate)(uint32_t *) = (void *)dlsym(driver, "vk_icdNegotiateLoaderICDInterfaceVersion");
    return negotiate ? negotiate(version) : INITIALIZATION_FAILED;
}
