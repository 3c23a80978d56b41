//go:build !linux

package volume

import "errors"

// Volume is one mounted file system, on Linux.
type Volume struct{}

var errNotHere = errors.New("volumes need Linux")

// Supported says why this machine cannot do it.
func Supported() error { return errNotHere }

// New is for Linux.
func New(string, string, int64) (*Volume, error) { return nil, errNotHere }

// Fill is for Linux.
func (*Volume) Fill() error { return errNotHere }

// Free is for Linux.
func (*Volume) Free() error { return errNotHere }

// Fail is for Linux.
func (*Volume) Fail() error { return errNotHere }

// Restore is for Linux.
func (*Volume) Restore() error { return errNotHere }

// Close is for Linux.
func (*Volume) Close() error { return errNotHere }
