//go:build !linux

package broker

import "syscall"

// sendMem writes p to a socket without waiting.
func sendMem(sock int, p []byte, _ bool) (int, error) { return syscall.Write(sock, p) }

// sendFile copies up to n bytes of a file to a socket: other systems have
// sendfile in other forms, and are for development only.
func sendFile(sock, file int, off *int64, n int) (int, error) {
	var buf [32 << 10]byte
	r, err := syscall.Pread(file, buf[:min(n, len(buf))], *off)
	if r <= 0 {
		return 0, err
	}
	w, err := syscall.Write(sock, buf[:r])
	if w > 0 {
		*off += int64(w)
	}
	return max(w, 0), err
}
