// Command floor does what a broker cannot avoid, and nothing else: it is the
// measure of what the machine charges for moving the bytes.
//
//	floor 127.0.0.1:port
//
// Each connection begins with a line that says what is wanted:
//
//	produce PARTS RESPONSE DIR   receive frames; CRC-32C and pwrite each of
//	                             their PARTS into a file of its own; answer
//	                             each frame with RESPONSE bytes
//	fetch CHUNK FILE...          for each 64 bytes received, sendfile the next
//	                             CHUNK of every file, until the files end
//	echo REQUEST RESPONSE        answer REQUEST bytes with RESPONSE bytes
//
// Every connection has an operating system thread of its own that blocks in
// plain system calls, as a program without a protocol and without timeouts
// may. It is also the smallest server that Go starts, for comparing the start.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return errors.New("usage: floor address")
	}
	addr, err := netip.ParseAddrPort(os.Args[1])
	if err != nil {
		return err
	}
	sock, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := syscall.SetsockoptInt(sock, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := syscall.Bind(sock, &syscall.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		return err
	}
	if err := syscall.Listen(sock, 128); err != nil {
		return err
	}
	for {
		c, _, err := syscall.Accept(sock)
		if err != nil {
			return err
		}
		if err := syscall.SetsockoptInt(c, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
			return err
		}
		go func() {
			runtime.LockOSThread()
			defer syscall.Close(c)
			if err := serve(fd(c)); err != nil && !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "floor:", err)
			}
		}()
	}
}

// fd is a blocking socket.
type fd int

func (f fd) Read(p []byte) (int, error) {
	n, err := syscall.Read(int(f), p)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

func (f fd) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := syscall.Write(int(f), p[done:])
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func serve(c fd) error {
	args, err := command(c)
	if err != nil {
		return err
	}
	switch {
	case len(args) == 4 && args[0] == "produce":
		parts, response, err := two(args[1], args[2])
		if err != nil {
			return err
		}
		return produce(c, parts, response, args[3])
	case len(args) > 2 && args[0] == "fetch":
		chunk, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return fetch(c, chunk, args[2:])
	case len(args) == 3 && args[0] == "echo":
		request, response, err := two(args[1], args[2])
		if err != nil {
			return err
		}
		return echo(c, request, response)
	}
	return fmt.Errorf("unknown command %q", args)
}

func command(c fd) ([]string, error) {
	var line []byte
	var b [1]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return nil, err
		}
		if b[0] == '\n' {
			return strings.Fields(string(line)), nil
		}
		line = append(line, b[0])
	}
}

func two(a, b string) (int, int, error) {
	x, err := strconv.Atoi(a)
	y, err2 := strconv.Atoi(b)
	return x, y, errors.Join(err, err2)
}

func produce(c fd, parts, response int, dir string) error {
	if parts < 1 {
		return errors.New("produce: PARTS below 1")
	}
	files := make([]int, parts)
	for i := range files {
		f, err := syscall.Open(filepath.Join(dir, strconv.Itoa(i)+".log"), syscall.O_CREAT|syscall.O_WRONLY|syscall.O_TRUNC|syscall.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		defer syscall.Close(f)
		files[i] = f
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	sums := uint32(0)
	off := make([]int64, parts)
	buf := make([]byte, 2<<20)
	answer := make([]byte, response)
	for {
		if _, err := io.ReadFull(c, buf[:4]); err != nil {
			return err
		}
		size := int(binary.BigEndian.Uint32(buf))
		if size > len(buf) {
			return fmt.Errorf("frame of %d bytes", size)
		}
		if _, err := io.ReadFull(c, buf[:size]); err != nil {
			return err
		}
		for i, each := 0, size/parts; i < parts; i++ {
			part := buf[i*each : (i+1)*each]
			sums ^= crc32.Update(0, table, part)
			n, err := syscall.Pwrite(files[i], part, off[i])
			if err != nil || n != len(part) {
				return fmt.Errorf("pwrite of %d bytes: %d, %w", len(part), n, err)
			}
			off[i] += int64(n)
		}
		binary.BigEndian.PutUint32(answer, uint32(response-4))
		binary.BigEndian.PutUint32(answer[4:], sums)
		if _, err := c.Write(answer); err != nil {
			return err
		}
	}
}

// sendBuffer is what the socket may hold of a fetch. Left to itself the kernel
// lets megabytes wait there until the CPU's cache has lost them, which costs more.
const sendBuffer = 128 << 10

// fetch answers each request with 8 bytes for how many follow, and these.
func fetch(c fd, chunk int, paths []string) error {
	if err := syscall.SetsockoptInt(int(c), syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer); err != nil {
		return err
	}
	type source struct {
		fd        int
		off, size int64
	}
	var files []*source
	for _, p := range paths {
		f, err := syscall.Open(p, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer syscall.Close(f)
		var st syscall.Stat_t
		if err := syscall.Fstat(f, &st); err != nil {
			return err
		}
		files = append(files, &source{fd: f, size: st.Size})
	}
	var request [64]byte
	for {
		if _, err := io.ReadFull(c, request[:]); err != nil {
			return err
		}
		total := int64(0)
		for _, f := range files {
			total += min(int64(chunk), f.size-f.off)
		}
		head := binary.BigEndian.AppendUint64(nil, uint64(total))
		flags := syscall.MSG_MORE
		if total == 0 {
			flags = 0
		}
		if _, err := syscall.SendmsgN(int(c), head, nil, nil, flags); err != nil {
			return err
		}
		for _, f := range files {
			for left := min(int64(chunk), f.size-f.off); left > 0; {
				n, err := syscall.Sendfile(int(c), f.fd, &f.off, int(left))
				if err != nil {
					return err
				}
				left -= int64(n)
			}
		}
	}
}

func echo(c fd, request, response int) error {
	in, out := make([]byte, request), make([]byte, response)
	for {
		if _, err := io.ReadFull(c, in); err != nil {
			return err
		}
		if _, err := c.Write(out); err != nil {
			return err
		}
	}
}
