/* ProcessPrng for Wine before 9, which lacks this DLL of Windows 7 and newer. Rust's standard
 * library needs it. */
#include <windows.h>
#include <ntsecapi.h>

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) {
    return RtlGenRandom(data, (ULONG)size);
}
