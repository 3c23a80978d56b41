package main

import "errors"

func kafkaJUnit(env, []entry) error { return errors.New("not there yet") }
