"""Does a training resume?"""
