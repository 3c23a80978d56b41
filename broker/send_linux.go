package broker

import "syscall"

// sendMem writes p to a socket without waiting. With more set the kernel holds
// a segment that is not full back until what follows is there.
func sendMem(sock int, p []byte, more bool) (int, error) {
	if !more {
		return syscall.Write(sock, p)
	}
	return syscall.SendmsgN(sock, p, nil, nil, syscall.MSG_MORE|syscall.MSG_DONTWAIT)
}

// sendFile sends n bytes of a file to a socket without waiting for the socket
// and moves off by what was sent.
func sendFile(sock, file int, off *int64, n int) (int, error) {
	return syscall.Sendfile(sock, file, off, n)
}
