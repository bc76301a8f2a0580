/* Two things that a test cannot do from Linux:
 *   helper hold FILE SECONDS               opens a file so that no other program can
 *   helper interrupt FILE COMMAND LINE..   starts a program, waits until FILE exists, sends Ctrl-C
 */
#include <stdio.h>
#include <stdlib.h>
#include <wchar.h>
#include <windows.h>

static int hold(const wchar_t *path, DWORD seconds) {
    HANDLE file = CreateFileW(path, GENERIC_READ, 0, NULL, OPEN_EXISTING, 0, NULL);
    if (file == INVALID_HANDLE_VALUE) {
        fprintf(stderr, "helper: the file cannot be opened: error %lu\n", GetLastError());
        return 1;
    }
    puts("held");
    fflush(stdout);
    Sleep(seconds * 1000);
    return 0;
}

static int interrupt(const wchar_t *path, wchar_t *line) {
    STARTUPINFOW startup = {.cb = sizeof(startup)};
    PROCESS_INFORMATION child;
    DWORD code = 1;
    /* Access is denied to a program that has a console. */
    if (!AllocConsole() && GetLastError() != ERROR_ACCESS_DENIED) {
        fprintf(stderr, "helper: there is no console: error %lu\n", GetLastError());
        return 77;
    }
    startup.dwFlags = STARTF_USESTDHANDLES;
    startup.hStdInput = GetStdHandle(STD_INPUT_HANDLE);
    startup.hStdOutput = CreateFileW(L"stdout.txt", GENERIC_WRITE, FILE_SHARE_READ,
        &(SECURITY_ATTRIBUTES){sizeof(SECURITY_ATTRIBUTES), NULL, TRUE}, CREATE_ALWAYS, 0, NULL);
    startup.hStdError = CreateFileW(L"stderr.txt", GENERIC_WRITE, FILE_SHARE_READ,
        &(SECURITY_ATTRIBUTES){sizeof(SECURITY_ATTRIBUTES), NULL, TRUE}, CREATE_ALWAYS, 0, NULL);
    if (!CreateProcessW(NULL, line, NULL, NULL, TRUE, 0, NULL, NULL, &startup, &child)) {
        fprintf(stderr, "helper: the program cannot be started: error %lu\n", GetLastError());
        return 1;
    }
    /* A child would inherit this: from here on only the child hears Ctrl-C. */
    SetConsoleCtrlHandler(NULL, TRUE);
    while (GetFileAttributesW(path) == INVALID_FILE_ATTRIBUTES) {
        if (WaitForSingleObject(child.hProcess, 100) == WAIT_OBJECT_0) {
            fprintf(stderr, "helper: the program ended before the file was there\n");
            return 1;
        }
    }
    if (!GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0)) {
        fprintf(stderr, "helper: Ctrl-C cannot be sent: error %lu\n", GetLastError());
        return 77;
    }
    WaitForSingleObject(child.hProcess, INFINITE);
    GetExitCodeProcess(child.hProcess, &code);
    return (int)code;
}

int wmain(int n, wchar_t **args) {
    static wchar_t line[32768];
    if (n == 4 && !wcscmp(args[1], L"hold")) return hold(args[2], (DWORD)_wtoi(args[3]));
    if (n < 4 || wcscmp(args[1], L"interrupt")) return 2;
    for (int at = 3; at < n; at++) {
        wcscat(line, L"\"");
        wcscat(line, args[at]);
        wcscat(line, at + 1 < n ? L"\" " : L"\"");
    }
    return interrupt(args[2], line);
}
